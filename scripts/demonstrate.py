"""Let a teacher play tasks, and keep what it gets right in a pool that training runs share.

    python scripts/demonstrate.py --pool pools/mine --environment.teacher openai:MODEL@URL
    python scripts/train.py --demonstrations.pool pools/mine --demonstrations.no-live

Tasks that the pool has already are not played again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import track

from ovd_agent.config import EnvironmentConfig
from ovd_agent.demonstrations import DemonstrationConfig, Demonstrator
from ovd_envs.errors import OVDError
from ovd_envs.make import make_scenario


@dataclass(frozen=True)
class Options:
    """Fill a pool of demonstrations."""

    pool: Path
    count: int = 16
    """How many training tasks, the first ones."""
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    attempts: int = 1
    """Tries a task; the best that passes is kept."""
    least_score: float = 0.0
    at_once: int = 16
    """Tasks played together; each batch is kept as soon as it is done."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)


def main(options: Options) -> int:
    what = options.environment.options(options.env, "train", options.environment.train_count)
    scenario, tasks = make_scenario(options.env, **what)
    config = DemonstrationConfig(
        attempts=options.attempts, least_score=options.least_score, pool=options.pool
    )
    demonstrator = Demonstrator(scenario, config)
    wanted = list(tasks[: options.count])
    batches = [wanted[at : at + options.at_once] for at in range(0, len(wanted), options.at_once)]
    shown = [
        episode
        for batch in track(batches, "playing", console=Console(stderr=True))
        for episode in demonstrator.demonstrate(batch)
    ]
    passed = sum(episode is not None for episode in shown)
    print(f"{passed} of {len(wanted)} tasks have a demonstration in {options.pool}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except OVDError as error:
        sys.exit(str(error))
