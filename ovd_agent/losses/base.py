"""What a component of the loss is: it reads streams of the rows, and adds to the loss of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.rows import TrainingRow


@dataclass(frozen=True, slots=True)
class Tokens:
    """The trained tokens of a micro-batch, or of a part of one; all tensors begin with [n].

    `logprobs` are those of the target ids under the model that is trained, with a gradient.
    `streams` are those of the rows in float64; the component's weight is already multiplied by the
    copies of its row and divided by the row's divisor. `candidates` [n, K] are log-probs of
    the ids in the component's stream `candidates`, and `distribution` [n, V] those of the whole
    vocabulary; each is None where the component does not read it, and `references` are such [n, V]
    of frozen models, without a gradient. `targets` [n] are the target ids. `rows` [n] says which
    tokens are of the same row; it is None where whole distributions are read, a few tokens at a
    time.
    """

    logprobs: Tensor
    streams: Mapping[str, Tensor]
    candidates: Tensor | None = None
    distribution: Tensor | None = None
    rows: Tensor | None = None
    targets: Tensor | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def stream(self, name: str) -> Tensor:
        """A stream in the dtype of the log-probabilities."""
        return self.streams[name].to(self.logprobs.dtype)


@dataclass(frozen=True)
class LossComponent(ABC):
    """One term of the loss. A subclass is a frozen dataclass whose fields are its options.

    A weight stream belongs to one component. The learner asks for the loss of a micro-batch only
    where the component has a token in it, never averages, and back-propagates the sum of all.
    """

    name: ClassVar[str]
    """Its loss is `{name}_loss` in the log."""
    weight: ClassVar[str]
    """The stream that weights its tokens, never negative: a token that has weight 0 in all
    components does not count in the divisor."""
    streams: ClassVar[tuple[str, ...]] = ()
    """Other streams it reads."""
    required: ClassVar[tuple[str, ...]] = ()
    """Streams that a row with this weight must have: a reference has to fill them."""
    candidates: ClassVar[str | None] = None
    """The stream of ids [n, K] whose log-probabilities it reads."""
    reads_distribution: ClassVar[bool] = False
    """Whether it reads log-probabilities of the whole vocabulary; it is then called for a few
    tokens at a time, so that nothing as large as the logits is kept."""
    reads_references: ClassVar[tuple[str, ...]] = ()
    """Frozen models whose whole distribution it reads beside the model's own."""
    reduce: ClassVar[Mapping[str, Callable[[Sequence[float]], float]]] = {}
    """How a metric of an update comes from those of its optimiser steps, where not by the mean."""

    def trained(self, row: TrainingRow) -> NDArray[np.bool_]:
        """Tokens of the row that get a gradient."""
        return row.has(self.weight)

    @abstractmethod
    def loss(self, tokens: Tokens) -> Tensor:
        """The sum over the tokens, a scalar."""

    def metrics(self, tokens: Tokens) -> dict[str, float]:
        """Figures for the log, of all tokens of an optimiser step; without candidates and
        distribution."""
        return {}


def first(values: Sequence[float]) -> float:
    """The metric of the first optimiser step of an update."""
    return values[0]


@dataclass(slots=True)
class StepTokens:
    """Collects the tokens of an optimiser step for the metrics."""

    logprobs: list[Tensor] = field(default_factory=list[Tensor])
    streams: list[Mapping[str, Tensor]] = field(default_factory=list[Mapping[str, Tensor]])
    rows: list[Tensor] = field(default_factory=list[Tensor])
    count: int = 0

    def add(self, logprobs: Tensor, streams: Mapping[str, Tensor], lengths: Sequence[int]) -> None:
        """The tokens of a micro-batch, whose rows have these `lengths`."""
        self.logprobs.append(logprobs.detach())
        self.streams.append(streams)
        self.rows.append(self.count + row_numbers(lengths, logprobs.device))
        self.count += len(lengths)

    def joined(self, names: Sequence[str], where: Tensor | None = None) -> Tokens:
        """All tokens, or those at the places `where`."""
        if not self.logprobs:
            empty = {name: torch.zeros(0) for name in names}
            return Tokens(torch.zeros(0), empty, rows=row_numbers([]))
        streams = {name: torch.cat([each[name] for each in self.streams]) for name in names}
        logprobs, rows = torch.cat(self.logprobs), torch.cat(self.rows)
        if where is not None:
            where = where.to(logprobs.device)
            streams = {name: stream[where] for name, stream in streams.items()}
            logprobs, rows = logprobs[where], rows[where]
        return Tokens(logprobs, streams, rows=rows)


def row_numbers(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """0 for the tokens of the first row, 1 for those of the second, and so on."""
    places = np.repeat(np.arange(len(lengths)), np.asarray(lengths, dtype=np.int64))
    return torch.from_numpy(places).to(device, non_blocking=True)
