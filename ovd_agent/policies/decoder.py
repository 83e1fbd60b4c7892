"""Forward passes over the cache of a policy: reading text, and writing token after token.

On a GPU the time of a decoding step is that of starting its kernels, so there it is recorded once
as a CUDA graph for a number of rows and a reach of the cache, and several steps are started before
the device is waited for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.policies.base import Sampling
from ovd_agent.policies.cache import SlotCache, cache_argument
from ovd_agent.policies.masks import Masks
from ovd_agent.policies.sampling import Draw, sample

STEPS = 4
"""Steps that a GPU is given before its tokens are looked at; what follows a stop is cut off."""
FEWEST_ROWS, REACH = 8, 256
"""Graphs are made for 8, 16, 32, ... rows, and for multiples of this many places of the cache."""


@dataclass(slots=True)
class Step:
    """The tensors [rows] that a decoding step reads and moves on: the latest tokens, their
    positions and a random number for each row; `draw` says how to sample."""

    tokens: Tensor
    positions: Tensor
    uniform: Tensor
    draw: Draw


@dataclass(slots=True)
class _Recorded:
    """A decoding step as a CUDA graph, with the tensors that it reads and fills."""

    graph: Any
    step: Step
    chosen: Tensor
    logprobs: Tensor


class Decoder:
    """A causal language model with a place in its cache for each of `slots` texts, of up to
    `length` ids. Positions `length - 1` are never read: rows without a use may write there."""

    def __init__(self, model: PreTrainedModel, slots: int, length: int) -> None:
        self.model, self.slots, self.length = model, slots, length
        self.device: torch.device = model.device
        self.cache = SlotCache(slots, length)
        self.graphs = self.device.type == "cuda"
        self._trunk: Any = model.base_model
        self._head: Any = model.get_output_embeddings()
        self._masks = Masks(model)
        self._argument = {cache_argument(model): self.cache}
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._pool: Any = None

    @property
    def steps(self) -> int:
        """How many tokens to write before they are looked at."""
        return STEPS if self.graphs else 1

    def rows(self, highest: int) -> int:
        """The number of rows of a graph that holds slot `highest`."""
        rows = FEWEST_ROWS
        while rows <= highest:
            rows *= 2
        return min(rows, self.slots)

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Tensor:
        """Next-token logits [rows, V] after each text is read into its row from its start on."""
        width = max(map(len, texts))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        # Padding writes beyond what is read, where it is overwritten before it can be seen.
        positions = torch.tensor(starts)[:, None] + torch.arange(width)
        last = torch.tensor([len(text) - 1 for text in texts])
        return self.logits(
            rows,
            ids.to(self.device),
            positions.clamp_max(self.length - 1).to(self.device),
            min(max(starts) + width, self.length),
            last.to(self.device),
        )

    @torch.inference_mode()
    def write(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        starts: Sequence[int],
        samplings: Sequence[Sampling],
        uniform: Tensor,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """As many steps as `uniform` [steps, rows] has: each reads the latest token of a row and
        samples the next. Returns ids and log-probabilities by row, [rows][steps]."""
        reach = min(max(starts) + len(uniform), self.length)
        draw = Draw.of(samplings, self.device)
        step = Step(
            torch.tensor(tokens, device=self.device),
            torch.tensor(starts, device=self.device).clamp_max(self.length - 1),
            uniform[0].to(self.device),
            draw,
        )
        recorded = self._recording(rows, step, reach) if self.graphs else None
        found: list[tuple[Tensor, Tensor]] = []
        for numbers in uniform.to(self.device):
            if recorded is None:
                step.uniform = numbers
                found.append(self._step(rows, step, reach))
            else:
                recorded.step.uniform.copy_(numbers)
                recorded.graph.replay()
                found.append((recorded.chosen.clone(), recorded.logprobs.clone()))
        ids, logprobs = (torch.stack(each, dim=1).tolist() for each in zip(*found, strict=True))
        return ids, logprobs

    def logits(
        self,
        rows: Sequence[int],
        ids: Tensor,
        positions: Tensor,
        reach: int,
        last: Tensor | None = None,
    ) -> Tensor:
        """Logits [rows, V] in float32 after `ids` [rows, width], of which `last` [rows] are the
        last that count; by default the first."""
        self.cache.prepare(rows, positions, reach)
        hidden = self._trunk(
            input_ids=ids,
            attention_mask=self._masks.of(positions, reach),
            position_ids=positions,
            use_cache=True,
            **self._argument,
        ).last_hidden_state
        each = torch.arange(len(rows), device=self.device)
        return self._head(hidden[:, 0] if last is None else hidden[each, last]).float()

    def _step(self, rows: Sequence[int], step: Step, reach: int) -> tuple[Tensor, Tensor]:
        logits = self.logits(rows, step.tokens[:, None], step.positions[:, None], reach)
        chosen, logprobs = sample(logits, step.uniform, step.draw)
        step.tokens.copy_(chosen)
        step.positions.add_(1).clamp_(max=self.length - 1)
        return chosen, logprobs

    def _recording(self, rows: Sequence[int], step: Step, reach: int) -> _Recorded | None:
        """The graph for these rows and this reach, with the values of `step`; None if the model
        cannot be recorded."""
        reach = min(-(-reach // REACH) * REACH, self.length)
        key = (len(rows), reach, step.draw.kind)
        if key not in self._recorded:
            try:
                self._recorded[key] = self._record(rows, _copy(step), reach)
            except RuntimeError as error:
                self.graphs = False
                warnings.warn(
                    f"{type(self.model).__name__} cannot be recorded as a CUDA graph"
                    f" ({str(error).splitlines()[0]}): it decodes more slowly without one",
                    stacklevel=2,
                )
                return None
        found = self._recorded[key]
        found.step.tokens.copy_(step.tokens)
        found.step.positions.copy_(step.positions)
        found.step.draw.temperature.copy_(step.draw.temperature)
        found.step.draw.top_p.copy_(step.draw.top_p)
        return found

    def _record(self, rows: Sequence[int], step: Step, reach: int) -> _Recorded:
        """Steps taken here write what the first real one writes again, and beyond it."""
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(rows, step, reach)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            chosen, logprobs = self._step(rows, step, reach)
        self._pool = self._pool or graph.pool()
        return _Recorded(graph, step, chosen, logprobs)


def _copy(step: Step) -> Step:
    draw = step.draw
    copied = Draw(
        draw.temperature.clone(), draw.top_p.clone(), draw.scaled, draw.greedy, draw.nucleus
    )
    return Step(step.tokens.clone(), step.positions.clone(), step.uniform.clone(), copied)
