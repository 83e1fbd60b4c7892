"""What the forward passes of an optimiser step measured, added up to the metrics of an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.losses.base import LossComponent, StepTokens


class StepMeter:
    """Adds up the micro-batches of one optimiser step.

    What is added stays on the device, which is not waited for in a micro-batch.
    """

    def __init__(self, losses: Sequence[LossComponent], device: torch.device | str) -> None:
        self._losses = losses
        self._sums = torch.zeros(len(losses), dtype=torch.float64, device=device)
        self._entropy = torch.zeros((), dtype=torch.float64, device=device)
        self._size, self._step = 0, StepTokens()

    def add(self, batch: MicroBatch, parts: Tensor, logprobs: Tensor, entropies: Tensor) -> None:
        """The loss of each component [c], and log-probability and entropy of each token [n]."""
        self._sums += parts.detach()
        self._entropy += entropies.detach().sum()
        self._size += batch.size
        self._step.add(logprobs, batch.streams, [count for _, count in batch.rows])

    def metrics(self) -> dict[str, float]:
        names = (f"{loss.name}_loss" for loss in self._losses)
        each = dict(zip(names, self._sums.tolist()))
        trained = sum(map(len, self._step.logprobs))
        return {
            "loss": sum(each.values()),
            **each,
            **_metrics(self._losses, self._step),
            "entropy": float(self._entropy) / max(1, trained),
            "trained_tokens": float(trained),
            "computed_tokens": float(self._size),
        }


def of_update(
    losses: Sequence[LossComponent], steps: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Metrics of an update from those of its optimiser steps: means, totals and extremes."""
    if not steps:
        return {**_metrics(losses, StepTokens()), **dict.fromkeys(_TOTALS, 0.0)}
    reduce = dict(_REDUCE)
    for loss in losses:
        reduce |= loss.reduce
    return {
        name: float(reduce.get(name, fmean)([step[name] for step in steps])) for name in steps[0]
    }


def of_ranks(
    losses: Sequence[LossComponent], ranks: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Metrics of an optimiser step from those of its processes, each of which computed a part of
    the loss and took the same step."""
    found = of_update(losses, ranks)
    for name in ("loss", *(f"{loss.name}_loss" for loss in losses)):
        found[name] = sum(rank[name] for rank in ranks)
    if "optimizer_steps" in found:
        found["optimizer_steps"] = ranks[0]["optimizer_steps"]
    return found


def _metrics(losses: Sequence[LossComponent], step: StepTokens) -> dict[str, float]:
    found: dict[str, float] = {}
    for loss in losses:
        found |= loss.metrics(step.joined((loss.weight, *loss.streams)))
    return found


_TOTALS = ("trained_tokens", "computed_tokens", "optimizer_steps")
_REDUCE: dict[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(_TOTALS, sum),
    "grad_norm": max,
}
