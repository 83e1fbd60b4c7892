"""From the learner to an engine: weights as a folder, and a probe that they arrived."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.lora import plain_weights, save_adapters
from ovd_agent.policies.base import PolicyUnavailable

WEIGHTS_FILE = "model.safetensors"
FIRST_LIMIT = 0.25
"""Mean difference, in nats, of the first probe: twice what bf16 engines show, a tenth of what
other weights do."""
SMALLEST_CHANGE = 1e-3
"""In nats: a smaller change of the probe is not told from rounding."""
_TEXT = (
    "Answer the question. Search when you need to: <search>who founded the town</search>\n"
    "<information>\n1. The town of Brill was founded by Ada Holm in 1843, near the river.\n"
    "</information>\n<answer>Ada Holm</answer>\n17 + 25 = 42, and 42 * 3 = 126."
)


def write_weights(
    model: PreTrainedModel, folder: Path, version: int, *, merged: bool = True
) -> Path:
    """Write `model` to `folder/version-N`, whole or not at all, delete older ones, return its path.

    Weights that are tied are stored once. Adapters are merged, or written alone, as peft does.
    """
    target = folder / f"version-{version}"
    temporary = folder / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if merged:
        weights = {name: weight.cpu() for name, weight in distinct_weights(model).items()}
        save_file(weights, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
    else:
        save_adapters(model, temporary)
    shutil.rmtree(target, ignore_errors=True)  # of an earlier run
    temporary.replace(target)
    for old in folder.glob("version-*"):
        if old != target:
            shutil.rmtree(old)
    return target


def distinct_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's plain weights by name, adapters merged; those that are tied, once."""
    found: dict[int, str] = {}
    weights: dict[str, Tensor] = {}
    plain = plain_weights(model)  # all held at once, so that no two share an address by chance
    for name, weight in plain.items():
        if found.setdefault(weight.data_ptr(), name) == name:
            weights[name] = weight.detach().contiguous()
    return weights


@dataclass(slots=True)
class Probe:
    """Compares an engine's log-probabilities of a fixed text with the learner's.

    An engine that kept old weights, or took them over wrongly, answers as if nothing were amiss;
    only its numbers tell. An engine in bfloat16 rounds the weights, which after an update may
    change a log-probability by 0.2: so the learner computes in that, too, and the nearer of the
    two counts. What is left hardly grows, and the limit is set by what the first publication
    showed of it.

    A small update stays within any such limit. So, where an update changed the log-probabilities
    by more than the first difference, the engine's must also be nearer to the new ones.
    """

    ids: list[int]
    limit: float = FIRST_LIMIT
    _noise: float | None = field(default=None, init=False)
    """The root mean square of the first difference."""
    _before: Sequence[Sequence[float]] = field(default=(), init=False)
    """What was expected when the engines were last distinguished from older weights."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Probe:
        return cls(list(tokenizer.encode(_TEXT, add_special_tokens=False)))

    @torch.inference_mode()
    def expected(self, model: PreTrainedModel) -> list[list[float]]:
        """The learner's log-probabilities of `ids[1:]`, as its weights are and in bfloat16."""
        ids = torch.tensor([self.ids], device=model.device)
        found: list[list[float]] = []
        for rounded in (False, True):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=rounded):
                logits = model(input_ids=ids).logits[0, :-1]
            logprobs = logits.float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    def check(
        self, expected: Sequence[Sequence[float]], engines: Mapping[str, Sequence[float]]
    ) -> float:
        """The largest of the engines' mean differences to the nearest of what is expected. Raises
        PolicyUnavailable if one is beyond the limit, not a number, or nearer to older weights."""
        nearest = [self._nearest(name, expected, found) for name, found in engines.items()]
        if self._noise is None:
            self.limit = min(self.limit, 3 * max(each.difference for each in nearest) + 1e-3)
            self._noise = max(_rms(each.off) for each in nearest)
            self._before = expected
        changes = [_rms(_minus(new, old)) for new, old in zip(expected, self._before, strict=True)]
        if min(changes) > max(self._noise, SMALLEST_CHANGE):
            for (name, found), each in zip(engines.items(), nearest, strict=True):
                self._check_newer(name, expected[each.place], self._before[each.place], found)
            self._before = expected
        return max(each.difference for each in nearest)

    def _nearest(
        self, engine: str, expected: Sequence[Sequence[float]], found: Sequence[float]
    ) -> _Nearest:
        offs = [_minus(found, each) for each in expected]
        means = [sum(map(abs, off)) / len(off) for off in offs]
        place = min(range(len(means)), key=means.__getitem__)
        if not means[place] <= self.limit:
            raise PolicyUnavailable(
                f"{engine} does not serve the learner's weights: its log-probabilities of a probe"
                f" text differ by {means[place]:.3g} on average, expected at most {self.limit:.3g};"
                " start it by ovd serve-model --role student, from the same student"
            )
        return _Nearest(place, means[place], offs[place])

    def _check_newer(
        self, engine: str, new: Sequence[float], old: Sequence[float], found: Sequence[float]
    ) -> None:
        change, moved = _minus(new, old), _minus(found, old)
        share = sum(a * b for a, b in zip(change, moved)) / sum(a * a for a in change)
        if share < 0.5:
            raise PolicyUnavailable(
                f"{engine} does not serve the learner's weights, but older ones: its"
                f" log-probabilities of a probe text have moved {share:.0%} of the way to the new"
                " ones; start it again by ovd serve-model --role student"
            )


@dataclass(frozen=True, slots=True)
class _Nearest:
    """Which of the expected log-probabilities an engine is nearest to, and how far off it is."""

    place: int
    difference: float
    off: list[float]


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))
