"""The demo: train a real 135M-parameter student with OVD and show it before and after."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.config import EnvironmentConfig, RolloutConfig, TrainConfig
from ovd_agent.report.html import write_report
from ovd_agent.trainer import Trainer
from ovd_envs.errors import OVDError


@dataclass(frozen=True)
class DemoTrain:
    """Train SmolLM2 with OVD; writes summary.json and report.html."""

    task: Literal["qa", "math"] = "qa"
    seed: int = 0
    updates: int | None = None
    """More than the default learns more."""
    out: Path | None = None
    """The run's folder; runs/demo or runs/demo-math by default."""


def config_of(demo: DemoTrain) -> TrainConfig:
    if demo.task == "qa":
        return TrainConfig(
            out=demo.out or Path("runs/demo"), seed=demo.seed, updates=demo.updates or 7
        )
    return TrainConfig(
        env="ovd/Math-v0",
        out=demo.out or Path("runs/demo-math"),
        seed=demo.seed,
        updates=demo.updates or 16,
        tasks_per_update=24,
        environment=EnvironmentConfig(difficulty=(1, 2, 3), max_turns=5),
        rollout=RolloutConfig(max_new_tokens=24, max_length=320),
    )


def main(demo: DemoTrain) -> int:
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
    sys.exit(main(tyro.cli(DemoTrain, description=__doc__)))
