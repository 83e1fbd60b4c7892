"""Tiny random students, exact in float64."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 32


def tiny_model(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    hidden: int = 16,
    layers: int = 2,
    vocabulary: int = VOCABULARY,
    tied: bool = False,
    scale: float = 0.2,
) -> Qwen2ForCausalLM:
    """A Qwen2 student of about 5k parameters, whose distributions are far from uniform."""
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=scale,
        tie_word_embeddings=tied,
        attention_dropout=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).to(dtype)
    if dtype == torch.float64:
        _exact_norms(model)
    return model


def _exact_norms(model: nn.Module) -> None:
    # Those of transformers compute in float32 whatever they are given.
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Qwen2RMSNorm":
                size, eps = child.weight.shape[0], child.variance_epsilon
                setattr(module, name, nn.RMSNorm(size, eps, dtype=torch.float64))
