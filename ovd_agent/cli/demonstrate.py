"""Let a teacher play tasks, and keep what it gets right in a pool that training runs share.

    ovd demonstrate --pool pools/mine --teacher openai:MODEL@URL
    ovd train --demonstrations.pool pools/mine --demonstrations.no-live

Tasks that the pool has already are not played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ovd_agent.cli.parse import parse
from ovd_agent.rollouts.demonstrations import DemonstrationConfig, Demonstrations
from ovd_agent.runs.config import EnvironmentConfig


@dataclass(frozen=True, kw_only=True)
class Options(EnvironmentConfig):
    """Fill a pool of demonstrations."""

    pool: Path
    """The folder that keeps them."""
    count: int = 16
    """How many training tasks, the first ones."""
    attempts: int = 1
    """Tries a task; the best that passes is kept."""
    min_score: float = 0.0
    """A demonstration's minimum mean score by the teacher."""
    batch_size: int = 16
    """Tasks played together; each batch is kept as soon as it is done."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "")
    scenario, tasks = options.environment().build()
    config = DemonstrationConfig(
        attempts=options.attempts, min_score=options.min_score, pool=options.pool
    )
    demonstrations = Demonstrations(scenario, config)
    wanted, size = list(tasks[: options.count]), options.batch_size
    batches = [wanted[at : at + size] for at in range(0, len(wanted), size)]
    shown = [
        episode
        for batch in track(batches, "playing", console=Console(stderr=True))
        for episode in demonstrations.demonstrate(batch)
    ]
    passed = sum(episode is not None for episode in shown)
    print(f"{passed} of {len(wanted)} tasks have a demonstration in {options.pool}")
    return 0
