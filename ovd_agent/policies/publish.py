"""From the learner to an engine: weights as a folder, and a probe that they arrived."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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
        save_file(_once(model), temporary / WEIGHTS_FILE, metadata={"format": "pt"})
    else:
        save_adapters(model, temporary)
    shutil.rmtree(target, ignore_errors=True)  # of an earlier run
    temporary.replace(target)
    for old in folder.glob("version-*"):
        if old != target:
            shutil.rmtree(old)
    return target


def _once(model: PreTrainedModel) -> dict[str, Tensor]:
    found: dict[int, str] = {}
    weights: dict[str, Tensor] = {}
    plain = plain_weights(model)  # all held at once, so that no two share an address by chance
    for name, weight in plain.items():
        if found.setdefault(weight.data_ptr(), name) == name:
            weights[name] = weight.detach().cpu().contiguous()
    return weights


@dataclass(slots=True)
class Probe:
    """Compares an engine's log-probabilities of a fixed text with the learner's.

    An engine that kept old weights, or took them over wrongly, answers as if nothing were amiss;
    only its numbers tell. An engine in bfloat16 rounds the weights, which after an update may
    change a log-probability by 0.2: so the learner computes in that, too, and the nearer of the
    two counts. What is left hardly grows, and the limit is set by what the first publication
    showed of it.
    """

    ids: list[int]
    limit: float = FIRST_LIMIT
    _settled: bool = field(default=False, init=False)

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
        self, engine: str, expected: Sequence[Sequence[float]], found: Sequence[float]
    ) -> float:
        """The mean difference to the nearest of what is expected. Raises PolicyUnavailable if it is
        beyond the limit, or not a number."""
        difference = min(
            sum(abs(ours - theirs) for ours, theirs in zip(each, found, strict=True)) / len(found)
            for each in expected
        )
        if not difference <= self.limit:
            raise PolicyUnavailable(
                f"{engine} does not serve the learner's weights: its log-probabilities of a probe"
                f" text differ by {difference:.3g} on average, expected at most {self.limit:.3g};"
                " start it by ovd serve-model --role student, from the same student"
            )
        if not self._settled:
            self.limit = min(self.limit, 3 * difference + 1e-3)
            self._settled = True
        return difference
