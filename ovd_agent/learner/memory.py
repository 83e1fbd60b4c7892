"""What the passes of a learner keep in memory, counted on a model without weights.

torch's fake tensors build a model of any size in a second; what its forward pass saves for the
backward pass is then counted, not estimated by a formula, so that the figure holds for every
architecture, for LoRA and for mixed precision.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ovd_agent.lora import LoraConfig, add_adapters
from ovd_agent.policies.attention import use_grouped_attention

TRAINED_SHARE = 0.5
"""Of the tokens of a pass, those that are trained and so have logits; the prompt has none."""
FLOAT = 4
"""Bytes of a float32."""
LEAST_BUDGET, MOST_BUDGET = 2048, 65536
"""Tokens of a pass: fewer leave a GPU idle, and so does waiting for more."""
USED_SHARE = 0.8
"""Of the memory that is free, what a pass may take: allocators leave gaps."""


def fitting_budget(
    model: PreTrainedModel, dtype: torch.dtype, logit_budget: int, *, checkpointing: bool
) -> int:
    """The tokens of one forward pass that fit the device's free memory beside gradients and
    moments; on a CPU, where more are no faster, the fewest."""
    if model.device.type != "cuda":
        return LEAST_BUDGET
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    free = torch.cuda.mem_get_info(model.device)[0]
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    free = USED_SHARE * free - 3 * FLOAT * trained - 2 * dtype.itemsize * logit_budget
    with FakeTensorMode():
        fake = fake_model(model.config)
        each = activation_bytes(fake, 1, LEAST_BUDGET, dtype, checkpointing=checkpointing)
    return max(LEAST_BUDGET, min(MOST_BUDGET, int(free * LEAST_BUDGET / each)))


def fake_model(
    shape: PreTrainedConfig, lora: LoraConfig | None = None, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The model without its weights; inside a FakeTensorMode."""
    # peft moves modules as fake tensors cannot be moved: it is done where there are no values.
    with unset_fake_temporarily(), torch.device("meta"):
        build: Any = AutoModelForCausalLM.from_config
        model = cast(PreTrainedModel, build(shape, dtype=dtype)).eval()
        use_grouped_attention(model)
        if lora is not None:
            add_adapters(model, lora)
    made: dict[int, Any] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            for name, value in own.items():
                if value is not None:
                    # Tied weights stay one.
                    own[name] = made.setdefault(id(value), _fake(value))
    return model


def _fake(value: Tensor) -> Tensor:
    tensor = torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=value.requires_grad)
    return tensor


def activation_bytes(
    model: PreTrainedModel, rows: int, length: int, dtype: torch.dtype, *, checkpointing: bool
) -> int:
    """What a forward pass over [rows, length] ids keeps for the backward pass; inside a
    FakeTensorMode.

    With checkpointing that is the input of every layer, and all that one layer keeps.
    """
    kept = _kept(model, rows, length, dtype)
    if not checkpointing:
        return kept
    shape: Any = model.config.get_text_config()
    inputs = FLOAT * rows * length * shape.hidden_size * shape.num_hidden_layers
    return inputs + kept // shape.num_hidden_layers


def _kept(model: PreTrainedModel, rows: int, length: int, dtype: torch.dtype) -> int:
    """Bytes that autograd saves, weights left out."""
    own = {StorageWeakRef(each.untyped_storage()) for each in model.parameters()}
    found: dict[StorageWeakRef, int] = {}

    def saved(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (reference := StorageWeakRef(storage)) not in own:
            found[reference] = storage.nbytes()
        return tensor

    mixed = torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext()
    ids = torch.zeros(rows, length, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor), mixed:
        kept: Any = model.base_model(
            input_ids=ids,
            # Of the shape that transformers takes as it is; it would look into any other.
            attention_mask=torch.ones(rows, 1, length, length, dtype=torch.bool),
            position_ids=ids,
            use_cache=False,
        )
        del kept
    return sum(found.values())


def logit_bytes(
    shape: PreTrainedConfig, token_budget: int, logit_budget: int, dtype: torch.dtype
) -> int:
    """The logits of a pass, and their gradient."""
    vocabulary: int = cast(Any, shape.get_text_config()).vocab_size
    wanted = int(TRAINED_SHARE * token_budget) * vocabulary
    return 2 * dtype.itemsize * min(wanted, logit_budget)
