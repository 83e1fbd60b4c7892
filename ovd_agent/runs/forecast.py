"""The memory that a run will take, known before it begins.

What a pass of the learner keeps is counted on a model without weights: `ovd_agent.learner.memory`.
`token_budget="auto"` counts as the fewest tokens that it ever chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from ovd_agent.algorithms import choose_algorithm
from ovd_agent.algorithms.base import Algorithm
from ovd_agent.learner.learner import AUTO
from ovd_agent.learner.memory import (
    FLOAT,
    LEAST_BUDGET,
    activation_bytes,
    fake_model,
    logit_bytes,
)
from ovd_agent.models import compute_dtype, load_config
from ovd_agent.policies import IN_PROCESS, VllmOptions, chosen_policy
from ovd_agent.policies.cache import SlotCache, cache_argument
from ovd_agent.policies.vllm_policy import CPU_CACHE_GIB
from ovd_agent.runs.config import TrainConfig

HELPS = {
    "weights": "a smaller student",
    "gradients": "lora.rank",
    "optimizer": "lora.rank",
    "references": "no kl to the start",
    "policy": "policy = a vLLM server on another device",
    "engine": "policy.memory_share",
    "cache": "rollout.slots, rollout.max_length",
    "activations": "learner.token_budget, learner.gradient_checkpointing",
    "logits": "learner.logit_budget",
}
"""The parts of a forecast, and what makes each smaller."""
CARD = 80 * 2**30
"""Bytes of the GPU that is foreseen for where none is here."""
CPU_ENGINE_CACHE = int(CPU_CACHE_GIB) * 2**30


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes by part, as in `HELPS`; `libraries` are those of the process itself. `available` is
    what the device has left now."""

    parts: Mapping[str, int]
    libraries: int
    available: int
    device: str

    @property
    def total(self) -> int:
        return sum(self.parts.values()) + self.libraries

    @property
    def fits(self) -> bool:
        return self.total - self.libraries <= self.available

    def advice(self) -> str:
        """One sentence: whether it fits, and what helps if not."""
        total, available = _gib(self.total), _gib(self.available)
        if self.fits:
            return f"it fits: {total} of {available} that are free on {self.device}"
        largest = sorted(self.parts, key=lambda part: -self.parts[part])[:2]
        helps = "; ".join(f"{part} ({_gib(self.parts[part])}): {HELPS[part]}" for part in largest)
        return (
            f"it does not fit: {total} are needed and {available} are free on {self.device}. What"
            f" makes the largest parts smaller: {helps}"
        )


def forecast(config: TrainConfig) -> Forecast:
    """The peak of a run's own process. Raises ModelError or OptionError."""
    libraries = _libraries()  # first: a student that is converted now leaves gigabytes behind
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = foreseen(config, load_config(config.student), device.type, compute_dtype(device))
    return Forecast(parts, libraries, available(device), str(device))


def foreseen(
    config: TrainConfig, shape: PreTrainedConfig, device_type: str, dtype: torch.dtype
) -> dict[str, int]:
    """Bytes by part of a run with a model of this shape; no such device need be here."""
    algorithm = choose_algorithm(config.algorithm).build()
    learner = config.learner
    budget = LEAST_BUDGET if learner.token_budget == AUTO else learner.token_budget
    length = config.rollout.max_length  # a row that is longer than the budget goes alone
    policy = chosen_policy(config.policy)
    played = policy.name == IN_PROCESS
    episodes = max(config.tasks_per_update * algorithm.needs.samples, config.eval_count)
    # On a processor a slot that nobody played in takes no memory.
    slots = min(config.rollout.slots, config.rollout.slots if device_type == "cuda" else episodes)
    with FakeTensorMode():
        model = fake_model(shape, config.lora)
        weights = sum(each.numel() for each in model.parameters())
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        activations = activation_bytes(
            model,
            max(1, budget // length),
            length,
            dtype,
            checkpointing=learner.gradient_checkpointing,
        )
        cache = cache_bytes(shape, slots, config.rollout.max_length, dtype)
    logits = logit_bytes(shape, budget, learner.logit_budget, dtype)
    engine = 0
    if isinstance(policy.options, VllmOptions):
        learning = FLOAT * trained + activations + logits
        engine = _engine_bytes(policy.options, device_type, dtype.itemsize * weights, learning)
    kept: torch.dtype = getattr(torch, learner.weights)
    masters = FLOAT * trained * (kept != torch.float32)
    return {
        "weights": kept.itemsize * weights,
        "gradients": FLOAT * trained,
        "optimizer": 2 * FLOAT * trained + masters,
        "references": kept.itemsize * weights * _models_beside(algorithm),
        "policy": dtype.itemsize * weights * (played and dtype != kept),
        "engine": engine,
        "cache": cache * played,
        "activations": activations,
        "logits": logits,
    }


def _engine_bytes(options: VllmOptions, device_type: str, weights: int, learning: int) -> int:
    """What vLLM in this process adds to the peak. One that sleeps while the learner works adds only
    what it takes beyond the learner's gradients and passes."""
    if device_type == "cpu":
        return 2 * weights + CPU_ENGINE_CACHE  # it keeps a packed copy of the weights
    card = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else CARD
    taken = int(options.memory_share * card)
    return max(0, taken - learning) if options.sleep else taken


def _models_beside(algorithm: Algorithm) -> int:
    """Frozen models in this process."""
    return sum(not wants.served for wants in algorithm.needs.references.values())


def cache_bytes(shape: PreTrainedConfig, slots: int, length: int, dtype: torch.dtype) -> int:
    """Keys and values of the policy's cache; inside a FakeTensorMode."""
    model = fake_model(shape, dtype=dtype)
    cache = SlotCache(slots, length)
    positions = torch.zeros(1, 1, dtype=torch.long)
    cache.prepare([0], positions, 1)
    with torch.no_grad():
        model.base_model(
            input_ids=positions,
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
            position_ids=positions,
            use_cache=True,
            **{cache_argument(model): cache},
        )
    stores = [store for layer in cache.layers.values() for store in layer]
    return sum(store.untyped_storage().nbytes() for store in stores)


def _libraries() -> int:
    return int(psutil.Process().memory_info().rss)


def available(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
