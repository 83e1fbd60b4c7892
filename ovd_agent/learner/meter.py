"""What the forward passes of an optimiser step measured, added up to the metrics of an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.losses.base import LossComponent, StepTokens

BY_TURN = ("entropy", "kl_behaviour", "clip_fraction", "teacher_kl", "teacher_overlap")
"""Figures that are also logged for the tokens of each turn of an episode."""
MOST_TURNS = 8
"""Later turns are not logged by themselves."""


class StepMeter:
    """Adds up the micro-batches of one optimiser step.

    What is added stays on the device, which is not waited for in a micro-batch.
    """

    def __init__(self, losses: Sequence[LossComponent], device: torch.device | str) -> None:
        self._losses = losses
        self._sums = torch.zeros(len(losses), dtype=torch.float64, device=device)
        self._entropies: list[Tensor] = []
        self._compared: list[Tensor] = []
        self._turns: list[NDArray[np.int16]] = []
        self._size, self._step = 0, StepTokens()

    def add(
        self,
        batch: MicroBatch,
        parts: Tensor,
        logprobs: Tensor,
        entropies: Tensor,
        compared: Tensor,
    ) -> None:
        """The loss of each component [c], and of each token log-probability and entropy [n] and how
        it compares with a frozen model [n, 2], if it does."""
        self._sums += parts.detach()
        self._entropies.append(entropies.detach())
        if not compared.numel():
            compared = compared.new_full((len(entropies), 2), torch.nan)
        self._compared.append(compared)
        self._turns.append(batch.turns)
        self._size += batch.size
        self._step.add(logprobs, batch.streams, [count for _, count in batch.rows])

    def metrics(self) -> dict[str, float]:
        names = (f"{loss.name}_loss" for loss in self._losses)
        each = dict(zip(names, self._sums.tolist()))
        entropies = torch.cat([torch.zeros(0), *(part.cpu() for part in self._entropies)])
        compared = torch.cat([torch.zeros(0, 2), *(part.cpu() for part in self._compared)])
        return {
            "loss": sum(each.values()),
            **each,
            **_metrics(self._losses, self._step),
            **_agreement(compared),
            "entropy": float(entropies.double().sum()) / max(1, len(entropies)),
            "trained_tokens": float(len(entropies)),
            "computed_tokens": float(self._size),
            **self._by_turn(entropies, compared),
        }

    def _by_turn(self, entropies: Tensor, compared: Tensor) -> dict[str, float]:
        """`NAME_turn_1` and on for the figures of `BY_TURN`; nothing where there is one turn."""
        turns = np.concatenate(self._turns) if self._turns else np.zeros(0, dtype=np.int16)
        found: dict[str, float] = {}
        for turn in range(min(int(turns.max(initial=-1)) + 1, MOST_TURNS)):
            where = np.flatnonzero(turns == turn)
            if len(where) in (0, len(turns)):
                continue
            figures = _metrics(self._losses, self._step, torch.from_numpy(where))
            figures["entropy"] = float(entropies[where].double().mean())
            figures |= _agreement(compared[where])
            found |= {
                f"{name}_turn_{turn + 1}": figures[name] for name in BY_TURN if name in figures
            }
        return found


def of_update(
    losses: Sequence[LossComponent], steps: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Metrics of an update from those of its optimiser steps: means, totals and extremes."""
    if not steps:
        return {**_metrics(losses, StepTokens()), **dict.fromkeys(_TOTALS, 0.0)}
    reduce = dict(_REDUCE)
    for loss in losses:
        reduce |= loss.reduce
    names = dict.fromkeys(name for step in steps for name in step)  # a step may lack late turns
    return {
        name: float(reduce.get(name, fmean)([step[name] for step in steps if name in step]))
        for name in names
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


def _metrics(
    losses: Sequence[LossComponent], step: StepTokens, where: Tensor | None = None
) -> dict[str, float]:
    """Of all tokens of a step, or of those at the places `where`."""
    found: dict[str, float] = {}
    for loss in losses:
        found |= loss.metrics(step.joined((loss.weight, *loss.streams), where))
    return found


def _agreement(compared: Tensor) -> dict[str, float]:
    """`teacher_overlap` and `teacher_kl` of tokens at which distributions were compared; nothing
    where they were not."""
    known = compared[~compared.isnan().any(1)].double()
    if not len(known):
        return {}
    overlap, divergence = known.mean(0).tolist()
    return {"teacher_overlap": overlap, "teacher_kl": divergence}


_TOTALS = ("trained_tokens", "computed_tokens", "optimizer_steps")
_REDUCE: dict[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(_TOTALS, sum),
    "grad_norm": max,
}
