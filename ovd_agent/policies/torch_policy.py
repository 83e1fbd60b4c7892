"""Batched sampling from any Hugging Face causal LM; the KV cache lasts over an episode's turns."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.models import end_ids
from ovd_agent.policies.base import Completion, PolicyContext, Sampling
from ovd_agent.policies.cache import shared_lengths
from ovd_agent.policies.decoder import Decoder
from ovd_agent.policies.sampling import Draw, sample

IDLE_SHARE = 1.4
"""Without a graph, a decoding pass may have this many times as many rows as episodes that need
one."""
READING_SHARE = 0.2
"""With a graph, episodes wait until this share of all have something to read."""


@dataclass(slots=True)
class _Slot:
    """A place in the cache; `ids[:fed]` are in it, also when it is free: what the last episode
    left there is good for the next that begins alike."""

    index: int
    ids: list[int] = field(default_factory=list[int])
    fed: int = 0
    start: int = 0
    logprobs: list[float] = field(default_factory=list[float])
    sampling: Sampling | None = None


def build(context: PolicyContext) -> TorchPolicy:
    model: Any = context.model
    if context.dtype != context.model.dtype:
        # Where the processor multiplies in bfloat16, it decodes from a copy half as large.
        model = copy.deepcopy(model).to(context.dtype)
    return TorchPolicy(model, context.tokenizer, slots=context.slots, max_length=context.max_length)


class TorchPolicy:
    """A `Policy` over a model in this process, for up to `slots` episodes of `max_length` ids.

    What an episode has in common with another one in the cache (the instructions, the question
    of its group, a passage that both found) is copied and not computed again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        slots: int = 64,
        max_length: int = 1024,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.version = 0
        self.slots, self.max_length = slots, max_length
        self.computed_tokens = 0
        """Tokens that went through the model since the beginning, padding left out."""
        self._tokenizer = tokenizer
        self._ends = end_ids(model, tokenizer)
        self._decoder = Decoder(model, slots, max_length)
        self._all = [_Slot(index) for index in range(slots)]
        self._free = list(range(slots))
        """A heap: the slots in use stay together at the beginning."""
        self._by_key: dict[int, _Slot] = {}
        self._generator = torch.Generator(model.device)
        self._pieces: list[str] = []
        self._closing: dict[tuple[str, ...], frozenset[int]] = {}
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restart the random numbers."""
        self._generator.manual_seed(seed)

    def publish(self, model: PreTrainedModel, version: int) -> dict[str, float]:
        """Load the weights of `model`, which may be the very model that plays."""
        if self.model is not model:
            self.model.load_state_dict(model.state_dict())  # casts as it copies
        self.weights_changed(version)
        return {}

    def rest(self) -> None:
        """Nothing: the buffers of keys and values are kept for the next rollout."""

    def weights_changed(self, version: int) -> None:
        """Forget all cached keys and values: they were computed with the old weights."""
        self.version = version
        self._all = [_Slot(index) for index in range(self.slots)]
        self._free = list(range(self.slots))
        self._by_key.clear()

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None:
        """Ask for a continuation of `context`; an earlier context of this key must be its prefix.

        Raises ValueError if the context fills the window or is no continuation, and
        RuntimeError if no slot is free.
        """
        if not context or len(context) >= self.max_length:
            raise ValueError(
                f"a context of {len(context)} ids: expected 1 to max_length - 1, "
                f"which is {self.max_length - 1}"
            )
        slot = self._by_key.get(key)
        if slot is None:
            if not self._free:
                raise RuntimeError(f"all {self.slots} slots are taken: release a finished episode")
            slot = self._by_key[key] = self._all[heapq.heappop(self._free)]
            slot.fed = int(shared_lengths(np.array([slot.ids[: slot.fed]]), context[:-1])[0])
        elif list(context[: len(slot.ids)]) != slot.ids:
            raise ValueError("the new context does not continue the ids this episode had before")
        slot.ids = list(context)
        slot.start, slot.logprobs, slot.sampling = len(slot.ids), [], sampling

    def release(self, key: int) -> None:
        """Give an episode's slot back."""
        slot = self._by_key.pop(key, None)
        if slot is not None:
            slot.sampling = None
            heapq.heappush(self._free, slot.index)

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]:
        """Generate until `at_least` requests (or all there are) have finished, and return those."""
        finished: list[tuple[int, Completion]] = []
        while len(finished) < at_least:
            active = [
                (key, slot) for key, slot in self._by_key.items() if slot.sampling is not None
            ]
            if not active:
                break
            reading = [pair for pair in active if len(pair[1].ids) - pair[1].fed > 1]
            writing = [pair for pair in active if len(pair[1].ids) - pair[1].fed == 1]
            if reading and (not writing or self._should_read(len(reading), len(active))):
                # On their own: one pass reads it all, and no row that writes is padded to it.
                self._share([slot for _, slot in reading])
                done = self._read(_of_like_length(reading) or reading)
            else:
                done = self._write(writing)
            finished += [(key, self._complete(slot)) for key, slot in done]
        return finished

    def _should_read(self, reading: int, active: int) -> bool:
        """A pass that reads costs a GPU about the same for one row as for twenty."""
        return not self._decoder.graphs or reading >= READING_SHARE * active

    def _share(self, unread: list[_Slot]) -> None:
        """Copy from other slots what they hold of an unread context."""
        texts = [slot.ids[: slot.fed] for slot in self._all]
        held = np.full((self.slots, max(map(len, texts))), -1)
        for row, text in zip(held, texts, strict=True):
            row[: len(text)] = text
        copies: list[tuple[int, int]] = []
        longest = 0
        for slot in unread:
            lengths = shared_lengths(held, slot.ids[:-1])
            donor = int(lengths.argmax())
            if lengths[donor] > slot.fed:
                copies.append((donor, slot.index))
                slot.fed = int(lengths[donor])
                longest = max(longest, slot.fed)
        if copies:
            donors, targets = zip(*copies, strict=True)
            self._decoder.cache.copy(donors, targets, longest)

    def _read(self, batch: list[tuple[int, _Slot]]) -> list[tuple[int, _Slot]]:
        """Read what is unread and sample one token after it; returns the slots that finished."""
        ordered = sorted(batch, key=lambda pair: pair[1].index)
        slots = [slot for _, slot in ordered]
        unread = [slot.ids[slot.fed :] for slot in slots]
        self.computed_tokens += sum(map(len, unread))
        rows, starts = [slot.index for slot in slots], [slot.fed for slot in slots]
        with torch.inference_mode():
            logits = self._decoder.read(rows, starts, unread)
            draw = Draw.of([slot.sampling or Sampling() for slot in slots], logits.device)
            chosen, logprobs = sample(logits, self._uniform(1, len(slots))[0], draw)
        tokens = zip(chosen.tolist(), logprobs.tolist(), strict=True)
        return [
            pair
            for pair, (token, logprob) in zip(ordered, tokens, strict=True)
            if self._append(pair[1], [token], [logprob])
        ]

    def _write(self, batch: list[tuple[int, _Slot]]) -> list[tuple[int, _Slot]]:
        """Sample the next tokens of slots with nothing to read; returns those that finished."""
        rows = self._rows([slot.index for _, slot in batch])
        used = {slot.index: pair for pair in batch for slot in [pair[1]]}
        uniform = self._uniform(self._decoder.steps, len(rows))
        tokens, logprobs = self._decoder.write(
            [slot.index for slot in rows],
            [slot.ids[slot.fed] if slot.index in used else 0 for slot in rows],
            [slot.fed for slot in rows],
            [(slot.index in used and slot.sampling) or Sampling() for slot in rows],
            uniform,
        )
        self.computed_tokens += len(batch) * len(uniform)
        return [
            used[slot.index]
            for slot, some, each in zip(rows, tokens, logprobs, strict=True)
            if slot.index in used and self._append(slot, some, each)
        ]

    def _uniform(self, steps: int, rows: int) -> Tensor:
        device = self.model.device
        return torch.rand((steps, rows), generator=self._generator, device=device)

    def _append(self, slot: _Slot, tokens: list[int], logprobs: list[float]) -> bool:
        """Take over what was sampled up to where it finishes; returns whether it does."""
        for token, logprob in zip(tokens, logprobs, strict=True):
            slot.fed = len(slot.ids)
            slot.ids.append(token)
            slot.logprobs.append(logprob)
            if self._finish(slot) is not None:
                return True
        return False

    def _rows(self, used: list[int]) -> list[_Slot]:
        """The slots of a pass in order. A graph is of all slots from the first on. Without one,
        idle slots come along where these are few: their rows cost less than to copy the keys and
        values of all the others together."""
        if self._decoder.graphs:
            return self._all[: self._decoder.rows(max(used))]
        indices = sorted(used)
        between = self._all[indices[0] : indices[-1] + 1]
        if len(between) <= len(indices) * IDLE_SHARE:
            return between
        return [self._all[index] for index in indices]

    def _finish(self, slot: _Slot) -> str | None:
        sampling = slot.sampling
        assert sampling is not None
        if slot.ids[-1] in self._ends or self._at_stop(slot, sampling.stop):
            return "stop"
        full = len(slot.ids) >= self.max_length
        return "length" if full or len(slot.logprobs) >= sampling.max_new_tokens else None

    def _at_stop(self, slot: _Slot, stops: tuple[str, ...]) -> bool:
        """Does the text sampled so far contain a stop string? Decoded only where the last token
        could have completed one, and over enough tokens to hold the longest."""
        if slot.ids[-1] not in self._closers(stops):
            return False
        window = max(len(stop.encode()) for stop in stops) + 1
        written = slot.ids[slot.start :][-window:]
        text = str(self._tokenizer.decode(written, skip_special_tokens=False))
        return any(stop in text for stop in stops)

    def _closers(self, stops: tuple[str, ...]) -> frozenset[int]:
        """The tokens that contain the last character of a stop string."""
        if stops not in self._closing:
            self._pieces = self._pieces or [
                str(self._tokenizer.decode([index])) for index in range(len(self._tokenizer))
            ]
            last = {stop[-1] for stop in stops}
            self._closing[stops] = frozenset(
                index for index, piece in enumerate(self._pieces) if not last.isdisjoint(piece)
            )
        return self._closing[stops]

    def _complete(self, slot: _Slot) -> Completion:
        finish = self._finish(slot)
        slot.sampling = None
        return Completion(
            slot.ids[slot.start :],
            slot.logprobs,
            "stop" if finish == "stop" else "length",
            self.version,
        )


def _of_like_length(reading: list[tuple[int, _Slot]]) -> list[tuple[int, _Slot]]:
    """Those to read in one pass: no two with the same beginning, which the others then copy, and
    none so much shorter than the longest that most of its row would be padding."""
    first: dict[int, tuple[int, _Slot]] = {}
    for pair in reading:
        slot = pair[1]
        first.setdefault(hash(tuple(slot.ids[: slot.fed + 2])), pair)
    chosen = sorted(first.values(), key=lambda pair: pair[1].fed - len(pair[1].ids))
    longest = len(chosen[0][1].ids) - chosen[0][1].fed if chosen else 0
    return [pair for pair in chosen if 2 * (len(pair[1].ids) - pair[1].fed) >= longest]
