"""What generates, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ovd_agent.policies.base import PolicyContext, TrainedPolicy
from ovd_envs.errors import OptionError
from retrieval_index.http import check_address
from retrieval_index.registry import Registry

POLICIES: Registry[TrainedPolicy] = Registry("policy")
"""Builders are given the options, where there are any, and a PolicyContext."""
IN_PROCESS = "torch"
DEFAULT_POLICY = IN_PROCESS


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


def _vllm(context: PolicyContext) -> TrainedPolicy:
    from ovd_agent.policies.vllm_policy import build

    return build(context)


def _served(options: ServerOptions, context: PolicyContext) -> TrainedPolicy:
    from ovd_agent.policies.served import build

    return build(options.urls, context)


def _urls(scheme: str) -> Any:
    def options(rest: str) -> dict[str, Any]:
        return {"urls": [url.strip() for url in f"{scheme}:{rest}".split(",")]}

    return options


POLICIES.register(IN_PROCESS, _torch)
POLICIES.register("vllm", _vllm)
for _scheme in ("http", "https"):
    POLICIES.register(_scheme, _served, ServerOptions, _urls(_scheme))
