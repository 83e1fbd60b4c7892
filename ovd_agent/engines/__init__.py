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


ENGINES.register(DEFAULT_ENGINE, _local)
ENGINES.register("trl", _trl, TRLOptions)
