"""What generates, by name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

from ovd_agent.policies.base import PolicyContext, TrainedPolicy
from ovd_envs.errors import OptionError
from retrieval_index.http import check_address
from retrieval_index.registry import Choice, Registry

POLICIES: Registry[TrainedPolicy] = Registry("policy")
"""Builders are given the options, where there are any, and a PolicyContext."""
IN_PROCESS = "torch"
ENGINE = "vllm"
AUTO = "auto"
DEFAULT_POLICY = IN_PROCESS


@dataclass(frozen=True)
class VllmOptions:
    """vLLM in this process. On a CPU both options have no effect."""

    memory_share: float = 0.4
    """The share of the GPU's memory that the engine takes: weights, and keys and values."""
    sleep: bool = True
    """Give that memory back while the learner updates the weights."""

    def __post_init__(self) -> None:
        if not 0 < self.memory_share < 1:
            raise OptionError(f"memory_share={self.memory_share}: expected more than 0, below 1")


@dataclass(frozen=True)
class ServerOptions:
    """A pool of servers that `ovd serve-model --role student` started."""

    urls: tuple[str, ...]

    def __post_init__(self) -> None:
        for url in self.urls:
            check_address(url, "policy", OptionError)


def _torch(context: PolicyContext) -> TrainedPolicy:
    from ovd_agent.policies.torch_policy import build

    return build(context)


def _vllm(options: VllmOptions, context: PolicyContext) -> TrainedPolicy:
    from ovd_agent.policies.vllm_policy import build

    return build(options, context)


def _auto(context: PolicyContext) -> TrainedPolicy:
    return chosen_policy(AUTO).build(context)


def chosen_policy(given: Any) -> Choice[TrainedPolicy]:
    """The policy that is given; for "auto", vLLM where it and a GPU are there, else ours."""
    choice = POLICIES.choose(given)
    if choice.name != AUTO:
        return choice
    has_engine = torch.cuda.is_available() and importlib.util.find_spec(ENGINE) is not None
    return POLICIES.choose(ENGINE if has_engine else IN_PROCESS)


def _served(options: ServerOptions, context: PolicyContext) -> TrainedPolicy:
    from ovd_agent.policies.served import build

    return build(options.urls, context)


def _urls(scheme: str) -> Any:
    def options(rest: str) -> dict[str, Any]:
        return {"urls": [url.strip() for url in f"{scheme}:{rest}".split(",")]}

    return options


POLICIES.register(IN_PROCESS, _torch)
POLICIES.register(ENGINE, _vllm, VllmOptions)
POLICIES.register(AUTO, _auto)
for _scheme in ("http", "https"):
    POLICIES.register(_scheme, _served, ServerOptions, _urls(_scheme))
