"""The key-value cache of a policy: one place per episode, filled as its text grows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel


class SlotCache:
    """Keys and values of all slots, `[slots, heads, length, head_dim]` a layer.

    It stands in for a transformers `Cache`: before a forward pass `aim` says which slots and
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

    def prepare(self, rows: Sequence[int], positions: Tensor) -> int:
        """Returns how many cache positions the next pass attends to."""
        self._places = torch.tensor(rows, device=positions.device)
        # Neighbouring slots are attended where they lie; others have to be copied together.
        neighbours = list(rows) == list(range(rows[0], rows[0] + len(rows)))
        self._rows = slice(rows[0], rows[0] + len(rows)) if neighbours else self._places
        self._positions = positions
        self._reach = int(positions.max()) + 1
        return self._reach

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

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Give `target` the positions from `start` to `end` of `source`."""
        with torch.inference_mode():
            for stores in self.layers.values():
                for store in stores:
                    store[target, :, start:end] = store[source, :, start:end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences have in common at their beginning."""
    length = min(len(one), len(other))
    if list(one[:length]) == list(other[:length]):
        return length
    differ = np.asarray(one[:length]) != np.asarray(other[:length])
    return int(differ.argmax())


def cache_argument(model: PreTrainedModel) -> str:
    """What this version of transformers calls the cache of a forward pass."""
    known = inspect.signature(type(model.get_decoder()).forward).parameters
    return "cache" if "cache" in known else "past_key_values"
