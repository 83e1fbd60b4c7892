"""The key-value cache of a policy: one place per episode, filled as its text grows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel


class SlotCache:
    """Keys and values of all slots, `[slots, heads, length, head_dim]` a layer.

    It stands in for a transformers `Cache`: before a forward pass `prepare` says which slots and
    positions the new tokens have; `update` stores them and returns all that may be attended.
    """

    is_compileable = False

    def __init__(self, slots: int, length: int) -> None:
        self.slots, self.length = slots, length
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: Tensor | slice = slice(0, 0)
        self._places = torch.empty(0, dtype=torch.long)
        self._positions = torch.empty(0, dtype=torch.long)
        self._reach = 0

    def prepare(self, rows: Sequence[int], positions: Tensor, reach: int) -> None:
        """The next pass writes at `positions` of `rows` and attends to the first `reach` places."""
        device, end = positions.device, rows[0] + len(rows)
        # Neighbouring slots are attended where they lie; others have to be copied together.
        if list(rows) == list(range(rows[0], end)):
            self._places = torch.arange(rows[0], end, device=device)
            self._rows = slice(rows[0], end)
        else:
            self._rows = self._places = torch.tensor(rows, device=device)
        self._positions, self._reach = positions, reach

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if layer_idx not in self.layers:
            shape = (self.slots, key.shape[1], self.length, key.shape[3])
            self.layers[layer_idx] = (key.new_zeros(shape), value.new_zeros(shape))
        found: list[Tensor] = []
        for store, new in zip(self.layers[layer_idx], (key, value), strict=True):
            store[self._places[:, None], :, self._positions] = new.transpose(1, 2)
            found.append(store[self._rows, :, : self._reach])
        return found[0], found[1]

    def copy(self, sources: Sequence[int], targets: Sequence[int], end: int) -> None:
        """Give each target the first `end` positions of its source."""
        with torch.inference_mode():
            for stores in self.layers.values():
                for store in stores:
                    store[targets, :, :end] = store[sources, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def shared_lengths(held: NDArray[np.int64], ids: Sequence[int]) -> NDArray[np.int64]:
    """How many of `ids` each row of `held` [n, m] begins with."""
    width = min(held.shape[1], len(ids))
    same = held[:, :width] == np.asarray(ids[:width])
    return np.logical_and.accumulate(same, axis=1).sum(axis=1)


def cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of a forward pass."""
    known = inspect.signature(type(model.get_decoder()).forward).parameters
    return "cache" if "cache" in known else "past_key_values"
