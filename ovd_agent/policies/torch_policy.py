"""Batched sampling from any Hugging Face causal LM; the KV cache lasts over an episode's turns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.models import end_ids
from ovd_agent.policies.base import Completion, PolicyContext, Sampling
from ovd_agent.policies.cache import SlotCache, cache_argument, shared_length
from ovd_agent.policies.masks import Masks

IDLE_SHARE = 1.4
"""A decoding pass may have this many times as many rows as episodes that need one."""


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
    if context.dtype != torch.float32:
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
        self._trunk: Any = model.base_model
        self._head: Any = model.get_output_embeddings()
        self._ends = end_ids(model, tokenizer)
        self._masks = Masks(model)
        self._cache = SlotCache(slots, max_length)
        self._cache_argument = {cache_argument(model): self._cache}
        self._all = [_Slot(index) for index in range(slots)]
        self._free = self._all[::-1]
        self._by_key: dict[int, _Slot] = {}
        self._generator = torch.Generator(model.device)
        self._pieces: list[str] = []
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

    def weights_changed(self, version: int) -> None:
        """Forget all cached keys and values: they were computed with the old weights."""
        self.version = version
        self._all = [_Slot(index) for index in range(self.slots)]
        self._free = self._all[::-1]
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
            slot = self._by_key[key] = self._free.pop()
            slot.fed = shared_length(slot.ids[: slot.fed], context[:-1])
        elif list(context[: len(slot.ids)]) != slot.ids:
            raise ValueError("the new context does not continue the ids this episode had before")
        slot.ids = list(context)
        slot.start, slot.logprobs, slot.sampling = len(slot.ids), [], sampling

    def release(self, key: int) -> None:
        """Give an episode's slot back."""
        slot = self._by_key.pop(key, None)
        if slot is not None:
            slot.sampling = None
            self._free.append(slot)

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]:
        """Generate until `at_least` requests (or all there are) have finished, and return those."""
        finished: list[tuple[int, Completion]] = []
        while len(finished) < at_least:
            active = [
                (key, slot) for key, slot in self._by_key.items() if slot.sampling is not None
            ]
            if not active:
                break
            # Slots with unread text go first, on their own: one pass reads it all, and no
            # decoding slot is padded to its length.
            self._share([slot for _, slot in active])
            reading = [pair for pair in active if len(pair[1].ids) - pair[1].fed > 1]
            for key, slot in self._advance(_of_like_length(reading) or active):
                finished.append((key, self._complete(slot)))
        return finished

    def _share(self, active: list[_Slot]) -> None:
        """Copy from other slots what they hold of an unread context, and let one slot of several
        with the same beginning read it for all."""
        unread = [slot for slot in active if len(slot.ids) - slot.fed > 1]
        held = [(slot.index, slot.ids[: slot.fed]) for slot in self._all if unread]
        for slot in unread:
            lengths = [(shared_length(ids, slot.ids[:-1]), index) for index, ids in held]
            shared, donor = max(lengths, default=(0, 0))
            if shared > slot.fed:
                self._cache.copy(donor, slot.index, slot.fed, shared)
                slot.fed = shared

    @torch.inference_mode()
    def _advance(self, batch: list[tuple[int, _Slot]]) -> list[tuple[int, _Slot]]:
        """One forward pass and one sampled token for each slot; returns those that finished."""
        tokens, logprobs = self._sample(self._logits([slot for _, slot in batch]), batch)
        done: list[tuple[int, _Slot]] = []
        for (key, slot), token, logprob in zip(batch, tokens, logprobs, strict=True):
            slot.fed = len(slot.ids)
            slot.ids.append(token)
            slot.logprobs.append(logprob)
            if self._finish(slot) is not None:
                done.append((key, slot))
        return done

    def _logits(self, slots: list[_Slot]) -> Tensor:
        """Next-token logits [len(slots), vocabulary] after feeding each slot's unread ids."""
        device = self.model.device
        rows = self._neighbours(slots)
        unread = {slot.index: slot.ids[slot.fed :] for slot in slots}
        width = max(map(len, unread.values()))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        for row, slot in enumerate(rows):
            new = unread.get(slot.index, [])
            ids[row, : len(new)] = torch.tensor(new, dtype=torch.long)
            # Padding writes beyond what is read, where it is overwritten before it can be seen.
            positions[row] = torch.arange(slot.fed, slot.fed + width).clamp_max(self.max_length - 1)
            self.computed_tokens += len(new)
        reach = self._cache.prepare([slot.index for slot in rows], positions.to(device))
        masks = self._masks.of(positions, reach)
        hidden = self._trunk(
            input_ids=ids.to(device),
            attention_mask=masks,
            position_ids=positions.to(device),
            use_cache=True,
            **self._cache_argument,
        ).last_hidden_state
        place = {slot.index: row for row, slot in enumerate(rows)}
        chosen = [place[slot.index] for slot in slots]
        last = [len(unread[slot.index]) - 1 for slot in slots]
        return self._head(hidden[chosen, last]).float()

    def _neighbours(self, slots: list[_Slot]) -> list[_Slot]:
        """The slots of a pass in order; with the idle ones between them, if these are few: their
        rows cost less than to copy the keys and values of all the others together."""
        indices = sorted(slot.index for slot in slots)
        between = self._all[indices[0] : indices[-1] + 1]
        # An idle row writes one position past its text, which must not be cut off at the end.
        few = len(between) <= len(slots) * IDLE_SHARE
        if few and all(slot.fed < self.max_length - 1 for slot in between):
            return between
        return [self._all[index] for index in indices]

    def _sample(
        self, logits: Tensor, batch: list[tuple[int, _Slot]]
    ) -> tuple[list[int], list[float]]:
        samplings = [slot.sampling or Sampling() for _, slot in batch]
        greedy = torch.tensor([s.temperature == 0 for s in samplings], device=logits.device)
        if any(s.temperature not in (0, 1) for s in samplings):
            scale = [s.temperature or 1.0 for s in samplings]
            logits = logits / torch.tensor(scale, device=logits.device)[:, None]
        logprobs = logits.log_softmax(-1)
        if any(s.top_p < 1 for s in samplings):
            top_p = torch.tensor([s.top_p for s in samplings], device=logits.device)[:, None]
            logprobs = _nucleus(logprobs, top_p)
        if greedy.all():
            chosen = logits.argmax(-1, keepdim=True)
        else:
            chosen = _drawn(logprobs, self._generator)
            if greedy.any():
                chosen = torch.where(greedy[:, None], logits.argmax(-1, keepdim=True), chosen)
        return chosen[:, 0].tolist(), logprobs.gather(1, chosen)[:, 0].tolist()

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
        piece = self._piece(slot.ids[-1])
        if not any(stop[-1] in piece for stop in stops):
            return False
        window = max(len(stop.encode()) for stop in stops) + 1
        written = slot.ids[slot.start :][-window:]
        text = str(self._tokenizer.decode(written, skip_special_tokens=False))
        return any(stop in text for stop in stops)

    def _piece(self, token: int) -> str:
        if not self._pieces:
            self._pieces = [
                str(self._tokenizer.decode([index])) for index in range(len(self._tokenizer))
            ]
        # A vocabulary may be padded beyond what the tokenizer knows.
        return self._pieces[token] if token < len(self._pieces) else ""

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


def _drawn(logprobs: Tensor, generator: torch.Generator) -> Tensor:
    """A token for each row, [n, 1], by inversion: one random number a row is enough, where
    `torch.multinomial` draws one for each of the vocabulary (a third of a decoding step)."""
    cumulative = logprobs.exp().cumsum(-1)
    size = (len(logprobs), 1)
    uniform = torch.rand(size, generator=generator, device=logprobs.device)
    # Rounding may leave the sum a little above or below 1; a token of probability 0 is never met.
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp_max(
        logprobs.shape[-1] - 1
    )


def _nucleus(logprobs: Tensor, top_p: Tensor) -> Tensor:
    """Renormalised over the smallest set of tokens whose probability reaches `top_p`."""
    ordered, places = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, places, before < top_p)
    return logprobs.masked_fill(~kept, -torch.inf).log_softmax(-1)
