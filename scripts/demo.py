"""The demo: train a real 135M-parameter student with OVD and show it before and after."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.algorithms.ovd import OVD
from ovd_agent.config import EnvironmentConfig, RolloutConfig, TrainConfig
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.report.html import write_report
from ovd_agent.trainer import Trainer
from ovd_envs.errors import OVDError


@dataclass(frozen=True)
class Demo:
    """Train SmolLM2 with OVD; writes summary.json and report.html."""

    task: Literal["qa", "math"] = "qa"
    seed: int = 0
    updates: int | None = None
    """More than the default learns more."""
    out: Path | None = None
    """The run's folder; runs/demo or runs/demo-math by default."""


WORLD = 2
"""Whose questions had no part in choosing these options (docs/training.md)."""


def config_of(demo: Demo) -> TrainConfig:
    """A few samples of many tasks, since early on it is the demonstrations that teach; no baseline
    and a falling learning rate, since late on what is learned must not be pushed out again."""
    updates = demo.updates or (12 if demo.task == "qa" else 14)
    # Larger passes cost memory and save time: a pass over few tokens is mostly overhead.
    learner = LearnerConfig(decay_steps=4 * updates, token_budget=2048)
    ovd = OVD(samples=2, statistics="none")
    if demo.task == "qa":
        return TrainConfig(
            out=demo.out or Path("runs/demo"),
            seed=demo.seed,
            updates=updates,
            tasks_per_update=16,
            environment=EnvironmentConfig(world_seed=WORLD, max_invalid=1),
            rollout=RolloutConfig(max_new_tokens=38),
            learner=learner,
            ovd=ovd,
        )
    return TrainConfig(
        env="ovd/Math-v0",
        out=demo.out or Path("runs/demo-math"),
        seed=demo.seed,
        updates=updates,
        tasks_per_update=32,
        environment=EnvironmentConfig(world_seed=WORLD, difficulty=(1, 2, 3), max_turns=4),
        rollout=RolloutConfig(max_new_tokens=24, max_length=320),
        learner=learner,
        ovd=ovd,
    )


def main(demo: Demo) -> int:
    config = config_of(demo)
    try:
        summary = Trainer(config).run()
    except OVDError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    before, after = summary["before"], summary["after"]
    hops = "hops" if demo.task == "qa" else "steps"
    table = Table(title=f"{config.env}: {before['count']} held-out tasks, greedy")
    for column in (hops, "EM before", "EM after"):
        table.add_column(column, justify="right")
    for name, row in before["per_hop"].items():
        table.add_row(name, f"{row['em']:.2f}", f"{after['per_hop'][name]['em']:.2f}")
    table.add_row("all", f"{before['em']:.2f}", f"{after['em']:.2f}", style="bold")
    accepted = ", ".join(f"{share:.2f}" for share in summary["acceptance"])
    Console().print(table, f"accepted, update by update: {accepted}")
    print(f"{summary['updates']} updates in {summary['seconds'] / 60:.1f} minutes")
    print(f"report: {write_report(config.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Demo, description=__doc__)))
