"""The loss of a micro-batch: one forward pass, then every component that has a token in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.learner.logprobs import Measured, token_logprobs
from ovd_agent.losses.base import LossComponent, Tokens, row_numbers


def batch_losses(
    model: PreTrainedModel,
    batch: MicroBatch,
    losses: Sequence[LossComponent],
    temperature: float,
    logit_budget: int,
) -> tuple[Tensor, Measured]:
    """The loss of each component [c], and what the pass measured."""
    active = [loss for loss in losses if loss.weight in batch.weighted]
    widths = _candidates(batch, active)
    whole = [loss for loss in active if loss.reads_distribution]

    def of_distribution(
        logprobs: Tensor, candidates: Tensor, distribution: Tensor, place: slice
    ) -> Tensor:
        streams = {name: stream[place] for name, stream in batch.streams.items()}
        return torch.stack(
            [
                loss.loss(
                    Tokens(logprobs, streams, _columns(candidates, widths, loss), distribution)
                )
                for loss in whole
            ]
        )

    measured = token_logprobs(
        model,
        batch,
        temperature,
        logit_budget,
        torch.cat([batch.streams[name] for name in widths], dim=1) if widths else None,
        of_distribution if whole else None,
    )
    found = dict(zip((loss.name for loss in whole), measured.extra))
    rows = row_numbers([count for _, count in batch.rows], measured.logprobs.device)
    for loss in active:
        if not loss.reads_distribution:
            candidates = _columns(measured.candidates, widths, loss)
            tokens = Tokens(measured.logprobs, batch.streams, candidates, rows=rows)
            found[loss.name] = loss.loss(tokens)
    nothing = measured.logprobs.new_zeros(())
    return torch.stack([found.get(loss.name, nothing) for loss in losses]), measured


def _candidates(batch: MicroBatch, active: Sequence[LossComponent]) -> dict[str, slice]:
    """Which columns of all candidates are those of each stream of ids."""
    widths: dict[str, slice] = {}
    start = 0
    for loss in active:
        if loss.candidates and loss.candidates not in widths:
            width = batch.streams[loss.candidates].shape[1]
            widths[loss.candidates] = slice(start, start + width)
            start += width
    return widths


def _columns(candidates: Tensor, widths: dict[str, slice], loss: LossComponent) -> Tensor | None:
    return candidates[:, widths[loss.candidates]] if loss.candidates else None
