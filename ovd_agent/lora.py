"""LoRA: small matrices trained beside frozen weights (arXiv 2106.09685), by peft.

The model stays the class it is and gets adapters in its linear layers, except the output head; so
policy and learner need not know. What leaves the run, weights for an engine and checkpoints, is
merged: plain weights under their usual names, which every engine loads. Only vLLM may be asked to
take the adapters alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ovd_envs.errors import OptionError

_ADAPTER = "default"
"""peft's name of an adapter that has none."""
_MARK = ".lora_"
_BASE = ".base_layer."


@dataclass(frozen=True)
class LoraConfig:
    """Train low-rank adapters instead of all weights."""

    rank: int = 0
    """0 trains all weights."""
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    merge: bool = True
    """Merge adapters into the weights that are published to vLLM. Otherwise publish the adapters
    alone; start servers with --lora-rank."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise OptionError(f"rank={self.rank}: expected at least 0, which trains all weights")
        if self.alpha <= 0:
            raise OptionError(f"alpha={self.alpha}: expected more than 0")
        if not self.rank and not self.merge:
            raise OptionError("merge=False: expected a rank of adapters, which is 0 here")


def add_adapters(model: PreTrainedModel, config: LoraConfig, seed: int = 0) -> None:
    """Freeze the weights, and put adapters beside them that change nothing yet; rank 0: neither."""
    if not config.rank:
        return
    peft: Any = importlib.import_module("peft")
    options = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", lora_dropout=0.0
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(options, model, adapter_name=_ADAPTER)


def adapters(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapters' own weights, in place; empty where all weights are trained."""
    weights = cast(dict[str, Tensor], model.state_dict())
    return {name: weight for name, weight in weights.items() if _MARK in name}


def save_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as peft does."""
    configs = cast(dict[str, Any], model.peft_config)
    configs[_ADAPTER].save_pretrained(str(folder))
    named = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": weight.detach().cpu().contiguous()
        for name, weight in adapters(model).items()
    }
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def plain_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The state dict of the model without adapters that computes the same."""
    modules: dict[str, Any] = dict(model.named_modules())
    plain: dict[str, Tensor] = {}
    for name, weight in cast(dict[str, Tensor], model.state_dict()).items():
        if _MARK in name:
            continue
        layer, adapted, parameter = name.rpartition(_BASE)
        if adapted and parameter == "weight":
            weight = weight + modules[layer].get_delta_weight(_ADAPTER)
        plain[name.replace(_BASE, ".")] = weight
    return plain
