"""How far the student and a frozen model agree about what comes next."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.learner.logprobs import frozen_distribution, hidden_states, token_logprobs

TOP, APART = 16, 8


@torch.no_grad()
def compared(mine: Tensor, theirs: Tensor, start: int) -> Tensor:
    """Figures [m, 2] of log-probabilities [m, V] of the student and of a frozen model: the share of
    the most likely tokens that are the same (`TOP`), and KL(student || frozen); NaN but for every
    `APART`-th token of a batch, in which these are number `start` and on."""
    found = mine.new_full((len(mine), 2), torch.nan)
    places = slice(-start % APART, None, APART)
    mine, theirs = mine[places], theirs[places]
    top = min(TOP, mine.shape[1])
    ids, others = (each.topk(top, dim=1).indices for each in (mine, theirs))
    shared = (ids[:, :, None] == others[:, None, :]).any(2).sum(1)
    found[places, 0] = shared.to(found.dtype) / top
    found[places, 1] = (mine.exp() * (mine - theirs)).sum(1)
    return found


@torch.no_grad()
def overlaps(
    student: PreTrainedModel, frozen: PreTrainedModel, batch: MicroBatch, logit_budget: int
) -> dict[int, float]:
    """The mean share of the most likely tokens that both models have in common, by the place of a
    row in what the batch was made of; a row too short to have a token that is looked at is left
    out."""
    theirs = hidden_states(frozen, batch).flatten(0, 1)[batch.positions]

    def figures(_: Tensor, __: Tensor, mine: Tensor, place: slice) -> tuple[Tensor, Tensor]:
        shown = frozen_distribution(frozen, theirs[place], 1.0, mine.shape[1])
        size = shown.shape[1]  # vocabularies may be padded to different sizes
        return mine.new_zeros(0), compared(mine[:, :size], shown, place.start)

    measured = token_logprobs(student, batch, 1.0, logit_budget, of_distribution=figures)
    found = measured.compared[:, 0].double().cpu()
    means: dict[int, float] = {}
    for index, count in batch.rows:
        mean = float(found[:count].nanmean())
        if mean == mean:
            means[index] = mean
        found = found[count:]
    return means
