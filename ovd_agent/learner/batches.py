"""Ragged rows to micro-batches of about equal size, without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.losses import Coefficients
from ovd_agent.learner.rows import TrainingRow

Doubles = NDArray[np.float64]

SHORTEST_PREFIX = 16
"""A shorter common beginning costs more to set apart than to compute again."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass reads: `prefix` [p], which all rows begin with, then `input_ids` and
    `attention_mask` [b, longest], which go on from there.

    `positions` index the flattened [b * longest] hidden states that predict the trained tokens,
    whose ids are `targets` and whose coefficients are `tokens`, all [n].
    """

    prefix: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor
    tokens: Coefficients

    @property
    def size(self) -> int:
        """Tokens that are computed, padding left out."""
        return len(self.prefix) + int(self.attention_mask.sum())


def micro_batches(
    rows: Sequence[TrainingRow],
    denominator: float,
    token_budget: int,
    device: torch.device | str = "cpu",
    *,
    share_prefix: bool = True,
) -> Iterator[MicroBatch]:
    """Group rows of like length so that b * longest stays within `token_budget`.

    Rows without a gradient are left out; a row longer than the budget goes alone. The order does
    not depend on that of `rows`, longest first, so that a step too big for memory fails at once.
    """
    lengths = {index: _read_length(row) for index, row in enumerate(rows) if row.trained.any()}
    order = sorted(lengths, key=lambda index: (-lengths[index], rows[index].ids))
    while order:
        shared = _shared([rows[index] for index in order]) if share_prefix else 0
        count = max(1, (token_budget - shared) // max(1, lengths[order[0]] - shared))
        chosen, order = order[:count], order[count:]
        picked = [rows[index] for index in chosen]
        prefix = _shared(picked) if share_prefix else 0
        yield _collate(picked, [lengths[i] for i in chosen], prefix, denominator, device)


def _read_length(row: TrainingRow) -> int:
    # The last trained token is only predicted: neither it nor what follows is ever an input.
    return int(np.flatnonzero(row.trained)[-1])


def _shared(rows: Sequence[TrainingRow]) -> int:
    """Ids that all rows begin with, as far as they predict nothing that is trained."""
    if len(rows) < 2:
        return 0
    # The last id before the first trained one predicts it, and so belongs to the row.
    length = min(int(np.flatnonzero(row.trained)[0]) - 1 for row in rows)
    length = max(0, min(length, *(_read_length(row) - 1 for row in rows)))
    first = np.asarray(rows[0].ids[:length])
    for row in rows[1:]:
        differ = np.flatnonzero(first[:length] != np.asarray(row.ids[:length]))
        length = int(differ[0]) if len(differ) else length
    return length if length >= SHORTEST_PREFIX else 0


def _collate(
    rows: Sequence[TrainingRow],
    lengths: Sequence[int],
    prefix: int,
    denominator: float,
    device: torch.device | str,
) -> MicroBatch:
    longest = lengths[0] - prefix
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    positions: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    streams: list[list[Doubles]] = []
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        input_ids[place, : length - prefix] = row.ids[prefix:length]
        trained = np.flatnonzero(row.trained)
        positions.append(place * longest + trained - 1 - prefix)
        targets.append(np.asarray(row.ids, dtype=np.int64)[trained])
        streams.append([stream[trained] for stream in _coefficients(row, denominator)])
    # Padding is known by length, never by id: the padding id may well be a token of the text.
    mask = np.arange(longest) < np.asarray(lengths)[:, None] - prefix
    return MicroBatch(
        prefix=torch.tensor(rows[0].ids[:prefix], dtype=torch.long, device=device),
        input_ids=torch.from_numpy(input_ids).to(device),
        attention_mask=torch.from_numpy(mask.astype(np.int64)).to(device),
        positions=torch.from_numpy(np.concatenate(positions)).to(device),
        targets=torch.from_numpy(np.concatenate(targets)).to(device),
        tokens=Coefficients(
            *(
                torch.from_numpy(np.concatenate(stream)).to(device)
                for stream in zip(*streams, strict=True)
            )
        ),
    )


def _coefficients(row: TrainingRow, denominator: float) -> tuple[Doubles, ...]:
    scale = row.copies / denominator
    # A behaviour log-probability counts only under a policy gradient: elsewhere it may be
    # anything, and an infinity times weight 0 would be NaN.
    behaviour = np.where(row.pg != 0, row.behaviour, np.nan)
    pg, ce, kl, shaped, advantage = (
        stream.astype(np.float64) for stream in (row.pg, row.ce, row.kl, row.shaped, row.advantage)
    )
    return scale * pg * advantage, scale * ce, scale * kl, scale * shaped, behaviour
