"""Ragged rows to micro-batches of about equal size, without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.rows import NAN_ALLOWED, TrainingRow
from ovd_agent.losses.base import LossComponent

SHORTEST_PREFIX = 16
"""A shorter common beginning costs more to set apart than to compute again."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass reads: `prefix` [p], which all rows begin with, then `input_ids` and
    `attention_mask` [b, longest], which go on from there.

    `positions` index the flattened [b * longest] hidden states that predict the trained tokens,
    whose ids are `targets` and whose streams are `streams`, all [n] or [n, K]; `turns` [n] are
    their turns, -1 where that is not known. `rows` are the places of the rows in what was given,
    with the number of trained tokens of each.
    """

    prefix: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor
    streams: Mapping[str, Tensor]
    turns: NDArray[np.int16]
    rows: tuple[tuple[int, int], ...]
    size: int
    """Tokens that are computed, padding left out."""
    weighted: frozenset[str]
    """The weight streams that are not 0 everywhere; known here, where it needs no device."""


def micro_batches(
    rows: Sequence[TrainingRow],
    losses: Sequence[LossComponent],
    divisors: Sequence[float],
    token_budget: int,
    device: torch.device | str = "cpu",
    *,
    share_prefix: bool = True,
) -> Iterator[MicroBatch]:
    """Group rows of like length so that b * longest stays within `token_budget`.

    The weights of each row are divided by its divisor.

    Rows without a gradient are left out; a row longer than the budget goes alone. The order does
    not depend on that of `rows`, longest first, so that a step too big for memory fails at once.
    """
    masks = [row.trained(losses) for row in rows]
    found = {
        index: _Trained(index, row, np.flatnonzero(mask), row.copies / divisor)
        for index, (row, mask, divisor) in enumerate(zip(rows, masks, divisors, strict=True))
        if mask.any()
    }
    order = sorted(found.values(), key=lambda each: (-each.read, each.row.ids))
    while order:
        shared = _shared(order) if share_prefix else 0
        count = max(1, (token_budget - shared) // max(1, order[0].read - shared))
        chosen, order = order[:count], order[count:]
        prefix = _shared(chosen) if share_prefix else 0
        yield _collate(chosen, losses, prefix, device)


@dataclass(frozen=True, slots=True)
class _Trained:
    """A row, where its trained tokens are, and what its weights are multiplied by."""

    index: int
    row: TrainingRow
    places: NDArray[np.int64]
    scale: float

    @property
    def read(self) -> int:
        """Ids that are read: the last trained token is only predicted, so neither it nor what
        follows is ever an input."""
        return int(self.places[-1])


def _shared(rows: Sequence[_Trained]) -> int:
    """Ids that all rows begin with, as far as they predict nothing that is trained."""
    if len(rows) < 2:
        return 0
    # The last id before the first trained one predicts it, and so belongs to the row.
    length = min(int(each.places[0]) - 1 for each in rows)
    length = max(0, min(length, *(each.read - 1 for each in rows)))
    first = np.asarray(rows[0].row.ids[:length])
    for each in rows[1:]:
        differ = np.flatnonzero(first[:length] != np.asarray(each.row.ids[:length]))
        length = int(differ[0]) if len(differ) else length
    return length if length >= SHORTEST_PREFIX else 0


def _collate(
    rows: Sequence[_Trained],
    losses: Sequence[LossComponent],
    prefix: int,
    device: torch.device | str,
) -> MicroBatch:
    longest = rows[0].read - prefix
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    for place, each in enumerate(rows):
        input_ids[place, : each.read - prefix] = each.row.ids[prefix : each.read]
    # Padding is known by length, never by id: the padding id may well be a token of the text.
    lengths = np.asarray([each.read - prefix for each in rows])
    mask = np.arange(longest) < lengths[:, None]
    positions = [place * longest + each.places - 1 - prefix for place, each in enumerate(rows)]
    targets = [np.asarray(each.row.ids, dtype=np.int64)[each.places] for each in rows]
    streams = _streams(rows, losses)

    def moved(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return MicroBatch(
        prefix=moved(np.asarray(rows[0].row.ids[:prefix], dtype=np.int64)),
        input_ids=moved(input_ids),
        attention_mask=moved(mask.astype(np.int64)),
        positions=moved(np.concatenate(positions)),
        targets=moved(np.concatenate(targets)),
        streams={name: moved(stream) for name, stream in streams.items()},
        turns=np.concatenate([_turns(each) for each in rows]),
        rows=tuple((each.index, len(each.places)) for each in rows),
        size=prefix + int(lengths.sum()),
        weighted=frozenset(each.weight for each in losses if streams[each.weight].any()),
    )


def _turns(each: _Trained) -> NDArray[np.int16]:
    if each.row.turns is None:
        return np.full(len(each.places), -1, dtype=np.int16)
    return each.row.turns[each.places]


def _streams(rows: Sequence[_Trained], losses: Sequence[LossComponent]) -> dict[str, NDArray[Any]]:
    """The streams of the trained tokens in float64, ids of candidates in int64. Weights are scaled:
    copies multiplied, the divisor divided out. After this nobody averages anything."""
    weights = {each.weight for each in losses}
    found: dict[str, NDArray[Any]] = {}
    for name in weights | {name for each in losses for name in each.streams}:
        parts = [_values(each, name) for each in rows]
        if name in weights:
            parts = [part * each.scale for part, each in zip(parts, rows, strict=True)]
        found[name] = np.concatenate(parts)
    for name in {each.candidates for each in losses if each.candidates}:
        widths = [each.row.streams[name].shape[1] for each in rows if name in each.row.streams]
        if widths:
            ids = [_candidates(each, name, widths[0]) for each in rows]
            found[name] = np.concatenate(ids)
    return found


def _values(each: _Trained, name: str) -> NDArray[np.float64]:
    stream = each.row.streams.get(name)
    if stream is None:
        return np.full(len(each.places), np.nan if name in NAN_ALLOWED else 0.0)
    return stream[each.places].astype(np.float64)


def _candidates(each: _Trained, name: str, width: int) -> NDArray[np.int64]:
    stream = each.row.streams.get(name)
    if stream is None:
        return np.zeros((len(each.places), width), dtype=np.int64)
    return stream[each.places].astype(np.int64)
