"""Attention that shares keys and values between query heads without copying them.

With a mask, transformers repeats the keys and values of every group of heads before attention.
On a CPU, over a long cache, that copy takes longer than all the rest of a decoding step (1.1 s of
1.3 s for SmolLM2 with 64 episodes of 300 tokens).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Shapes: query [b, heads, n, d], key and value [b, kv_heads, m, d], mask [b, 1, n, m].

    A single query attends to the same keys as the others of its group of heads, so a group's
    queries are one matrix: several times as fast in bfloat16, whose grouped kernel is slow.
    """
    batch, heads, count, width = query.shape
    groups = heads // key.shape[1]
    if groups > 1 and count == 1:
        query = query.reshape(batch, -1, groups, width)
    elif groups > 1 and query.is_cuda and attention_mask is not None:
        # With a mask, torch shares heads on a GPU only in the kernel that keeps all scores.
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=attention_mask is None and count > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    output = output.reshape(batch, heads, count, -1)
    return output.transpose(1, 2).contiguous(), None


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Switch a model that uses torch's attention to this one; others stay as they are."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
