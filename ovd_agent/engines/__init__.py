"""Where rows become weights, by name: our own loop in this process, or the trainers of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ovd_envs.errors import OptionError
from retrieval_index.registry import Registry

if TYPE_CHECKING:
    from ovd_agent.runs.config import TrainConfig


class Run(Protocol):
    """Everything that a `TrainConfig` describes."""

    def run(self) -> dict[str, Any]:
        """Train to the end, or from where a stopped run was left, and return the summary."""
        ...


@dataclass(frozen=True)
class TRLOptions:
    """TRL's GRPOTrainer, on one process or, under `accelerate launch`, on several."""

    passes_per_step: int = 4
    """Forward passes of each process an optimiser step; more of them take less memory."""

    def __post_init__(self) -> None:
        if self.passes_per_step < 1:
            raise OptionError(f"passes_per_step={self.passes_per_step}: expected at least 1")


@dataclass(frozen=True)
class VerlOptions:
    """verl's synchronous trainer on GPUs, by Ray; other options of verl are `overrides`."""

    nodes: int = 1
    """Nodes of the Ray cluster."""
    gpus_per_node: int = 1
    """GPUs of each."""
    workers: int = 1
    """Processes that play; each takes its share of an update's tasks."""
    tokens_per_gpu: int = 16384
    """Tokens of one forward pass on a GPU."""
    overrides: tuple[str, ...] = ()
    """verl's own options, as `trainer.device=npu`; they win over what is derived from a run's."""

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "workers", "tokens_per_gpu"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")


ENGINES: Registry[Run] = Registry("engine", "ovd.engines")
"""Builders are given the options, where there are any, and the TrainConfig."""
DEFAULT_ENGINE = "local"


def _local(config: TrainConfig) -> Run:
    from ovd_agent.runs.trainer import Trainer

    return Trainer(config)


def _trl(options: TRLOptions, config: TrainConfig) -> Run:
    try:
        from ovd_agent.engines.trl_run import TRLRun
    except ImportError as error:
        raise OptionError(f'engine "trl" needs TRL ({error}): pip install "ovd[trl]"') from None
    return TRLRun(options, config)


def _verl(options: VerlOptions, config: TrainConfig) -> Run:
    try:
        from ovd_agent.engines.verl_run import VerlRun
    except ImportError as error:
        raise OptionError(
            f'engine "verl" needs verl ({error}), in an environment of its own: see docs/scaling.md'
        ) from None
    return VerlRun(options, config)


ENGINES.register(DEFAULT_ENGINE, _local)
ENGINES.register("trl", _trl, TRLOptions)
ENGINES.register("verl", _verl, VerlOptions)
