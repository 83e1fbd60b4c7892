"""The loss of a micro-batch: one forward pass, then every component that has a token in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.learner.logprobs import (
    Measured,
    frozen_distribution,
    hidden_states,
    token_logprobs,
)
from ovd_agent.learner.overlap import compared
from ovd_agent.losses.base import LossComponent, Tokens, row_numbers


def batch_losses(
    model: PreTrainedModel,
    batch: MicroBatch,
    losses: Sequence[LossComponent],
    temperature: float,
    logit_budget: int,
    references: Mapping[str, PreTrainedModel] | None = None,
) -> tuple[Tensor, Measured]:
    """The loss of each component [c], and what the pass measured."""
    active = [loss for loss in losses if loss.weight in batch.weighted]
    widths = _candidates(batch, active)
    whole = [loss for loss in active if loss.reads_distribution]
    frozen = _frozen(batch, whole, references or {})

    def of_distribution(
        logprobs: Tensor, candidates: Tensor, distribution: Tensor, place: slice
    ) -> tuple[Tensor, Tensor]:
        streams = {name: stream[place] for name, stream in batch.streams.items()}
        shown = {
            name: frozen_distribution(model, hidden[place], temperature, distribution.shape[1])
            for name, (model, hidden) in frozen.items()
        }
        # Vocabularies may be padded to different sizes.
        size = min([distribution.shape[1], *(each.shape[1] for each in shown.values())])
        tokens = Tokens(
            logprobs,
            streams,
            distribution=distribution[:, :size],
            targets=batch.targets[place],
            references={name: each[:, :size] for name, each in shown.items()},
        )
        numbers = [
            loss.loss(replace(tokens, candidates=_columns(candidates, widths, loss)))
            for loss in whole
        ]
        return torch.stack(numbers), _compared(tokens, place.start)

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


def _compared(tokens: Tokens, start: int) -> Tensor:
    """As `compared`, with the first frozen model [m, 2]; without one [m, 0]."""
    if tokens.distribution is None or not tokens.references:
        return tokens.logprobs.new_zeros(len(tokens.logprobs), 0).detach()
    return compared(tokens.distribution, next(iter(tokens.references.values())), start)


def _frozen(
    batch: MicroBatch,
    whole: Sequence[LossComponent],
    references: Mapping[str, PreTrainedModel],
) -> dict[str, tuple[PreTrainedModel, Tensor]]:
    """The frozen models that components read, with their hidden states at the trained positions;
    their logits are made a few tokens at a time and never kept."""
    found: dict[str, tuple[PreTrainedModel, Tensor]] = {}
    for loss in whole:
        for name in loss.reads_references:
            if name not in references:
                raise ValueError(
                    f"the loss {loss.name!r} reads the distribution of a reference {name!r}: name"
                    " it in the algorithm's needs, as Wants(..., whole=True)"
                )
            if name not in found:
                with torch.no_grad():
                    states = hidden_states(references[name], batch).flatten(0, 1)
                found[name] = (references[name], states[batch.positions])
    return found


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
