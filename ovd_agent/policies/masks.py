"""Attention masks over the policy's own cache: full or sliding, boolean or additive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_FULL, _SLIDING = "full_attention", "sliding_attention"


class Masks:
    """What a model's layers may attend to, in the form that the model takes.

    A model with layers of both kinds takes a mask for each (`layer_types` of its configuration);
    one whose layers all slide takes one. Eager attention adds its mask to the scores, where a
    boolean one would do nothing.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or ()
        window = getattr(config, "sliding_window", None)
        used = getattr(config, "use_sliding_window", True) is not False
        self._window: int | None = window if used and isinstance(window, int) else None
        self._kinds: tuple[str, ...] = tuple(dict.fromkeys(kinds))
        self._by_kind = bool(set(self._kinds) - {_FULL}) and set(self._kinds) <= {_FULL, _SLIDING}
        self._additive = getattr(config, "_attn_implementation", None) == "eager"
        self._dtype = model.dtype

    def of(self, positions: Tensor, reach: int) -> Tensor | Mapping[str, Tensor]:
        """For queries at `positions` [rows, width] over `reach` places of the cache."""
        places = torch.arange(reach, device=positions.device)[None, None, None, :]
        queries = positions[:, None, :, None]
        full = places <= queries
        if self._window is None:
            return self._taken(full)
        sliding = self._taken(full & (places > queries - self._window))
        if not self._by_kind:
            return sliding
        return {_FULL: self._taken(full), _SLIDING: sliding}

    def _taken(self, mask: Tensor) -> Tensor:
        if not self._additive:
            return mask
        lowest = torch.finfo(self._dtype).min
        return torch.zeros_like(mask, dtype=self._dtype).masked_fill(~mask, lowest)
