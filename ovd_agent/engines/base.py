"""What an engine needs of us: rows for each update, split among its forward passes, and the loss of
each pass as a `forward` of the model, so that every wrapper (DDP, FSDP) sees an ordinary call."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch, micro_batches
from ovd_agent.learner.components import batch_losses
from ovd_agent.learner.logprobs import LOGIT_BUDGET, check_head
from ovd_agent.learner.rows import Counts, LossPer, TrainingRow, divisors
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_envs.episode import Episode

T = TypeVar("T")
ROWS = "ovd_rows"
"""The argument of `forward` that `loss_by_rows` adds."""
_ALL = 2**62


class RowSource(Protocol):
    """What makes the rows of an update; it knows no engine."""

    def collect(self, update: int) -> list[TrainingRow]:
        """This process's rows of update number `update`, counted from 0."""
        ...

    def publish(self, model: PreTrainedModel, version: int) -> None:
        """Let the policy play with the weights of `model`, which took `version` steps."""
        ...


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of one forward pass, and what the loss of each is divided by."""

    rows: list[TrainingRow] = field(default_factory=list[TrainingRow])
    divisors: list[float] = field(default_factory=list[float])


def passes(
    rows: Sequence[TrainingRow],
    losses: Sequence[LossComponent],
    per: LossPer,
    *,
    steps: int,
    passes_per_step: int,
    seed: int,
    whole: Callable[[list[Counts]], list[Counts]] = list,
) -> list[list[Pass]]:
    """Split the rows of an update into `steps` optimiser steps of `passes_per_step` passes each.

    The split is that of our learner: a random order, of which every `steps`-th row belongs to a
    step. Rows of like length share a pass, so that little is padded; a pass may be empty. `whole`
    turns the counts of this process into those of all, so that divisors are those of the step.
    """
    order = list(rows)
    random.Random(seed).shuffle(order)
    parts = [order[part::steps] for part in range(steps)]
    counts = whole([Counts.of(part, losses) for part in parts])
    return [
        _of_step(part, divisors(part, losses, per, count), passes_per_step)
        for part, count in zip(parts, counts, strict=True)
    ]


def _of_step(rows: Sequence[TrainingRow], each: Sequence[float], count: int) -> list[Pass]:
    found = [Pass() for _ in range(count)]
    by_length = sorted(zip(rows, each), key=lambda pair: -len(pair[0].ids))
    size = -(-len(by_length) // count)
    for place, (row, divisor) in enumerate(by_length):
        found[place // size].rows.append(row)
        found[place // size].divisors.append(divisor)
    return found


@dataclass(frozen=True, slots=True)
class LossByRows:
    """How the loss of a pass is computed from its rows."""

    losses: tuple[LossComponent, ...]
    temperature: float = 1.0
    logit_budget: int = LOGIT_BUDGET
    references: Mapping[str, PreTrainedModel] = field(default_factory=dict[str, PreTrainedModel])
    share_prefix: bool = True

    def batch(self, rows: Pass, device: torch.device) -> MicroBatch:
        """The rows as one micro-batch. Without a trained token it is one that trains nothing, since
        every process must take part in every pass."""
        batches = micro_batches(
            rows.rows, self.losses, rows.divisors, _ALL, device, share_prefix=self.share_prefix
        )
        return next(batches, None) or self._nothing(device)

    def _nothing(self, device: torch.device) -> MicroBatch:
        blank = TrainingRow.blank([0, 0], "demonstration")
        blank.stream(CrossEntropy.weight)[1] = 1.0
        found = next(micro_batches([blank], (CrossEntropy(),), [1.0], _ALL, device))
        return replace(found, streams={}, rows=(), size=0, weighted=frozenset())


def loss_by_rows(model: PreTrainedModel, how: LossByRows) -> None:
    """Let `model(ovd_rows=batch)` return the loss of each component [c], and of each trained token
    log-probability and entropy [n] and how it compares with a frozen model [n, 2]; other calls are
    as they were.

    Raises ValueError for a model whose logits are not its output head over its hidden states.
    """
    check_head(model)

    def forward(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        batch = cast("MicroBatch | None", kwargs.pop(ROWS, None))
        if batch is None:
            return type(self).forward(self, *args, **kwargs)
        parts, measured = batch_losses(
            self, batch, how.losses, how.temperature, how.logit_budget, how.references
        )
        if not batch.rows:  # nothing, but with a gradient
            parts = parts + 0.0 * measured.logprobs.sum()
        return parts, measured.logprobs.detach(), measured.entropies, measured.compared

    setattr(model, "forward", MethodType(forward, model))  # noqa: B010 - an instance's own


def gathered(mine: T) -> list[T]:
    """What every process gives, in the order of their ranks; each must call this."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


@torch.no_grad()
def full_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Every weight, whole, where the model may be sharded: each process must call this."""
    found: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        found[name] = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return found


def interleaved(shares: Sequence[Sequence[Episode]]) -> list[Episode]:
    """The order of the tasks again, of which each process had every n-th."""
    count = sum(map(len, shares))
    return [shares[place % len(shares)][place // len(shares)] for place in range(count)]


def joined(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of processes as one: counts are added, shares and means averaged, lists joined.
    All processes have as many tasks, so that the mean of means is the mean."""
    names = dict.fromkeys(name for rank in ranks for name in rank)
    return {name: _joined([rank[name] for rank in ranks if name in rank]) for name in names}


def _joined(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], Mapping):
        return joined(known)
    if isinstance(known[0], int):
        return sum(known)
    if isinstance(known[0], float):
        return sum(known) / len(known)
    lists = cast("list[list[Any]]", known)
    if all(isinstance(value, int) for value in lists[0]):  # a histogram
        return [sum(column) for column in zip(*lists, strict=True)]
    return [value for each in lists for value in each]
