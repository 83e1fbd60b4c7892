"""Evaluate a student: `ovd evaluate --student runs/demo --count 200`.

Environment and rollout options of a run's folder are those of the run, unless told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.cli.run_folder import options_of_run
from ovd_agent.runs.assemble import assemble_play
from ovd_agent.runs.config import PlayConfig
from ovd_agent.runs.evaluate import evaluate
from ovd_envs.episode import write_episodes
from ovd_envs.scenario import Options
from retrieval_index.files import write_atomically
from retrieval_index.options import hints_of


@dataclass(frozen=True)
class Evaluation(PlayConfig):
    """Play held-out tasks and report EM and F1 with 95% intervals, in all and per hop."""

    count: int = 200
    """How many held-out tasks."""
    temperature: float = 0.0
    """0 is greedy."""
    samples: int = 1
    """How often each task is played; more than one gives pass@k."""
    out: Path | None = None
    """Folder for result.json and episodes.jsonl."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Evaluation, arguments, __doc__ or "", options_of_run(arguments))
    choice = options.held_out(options.count)
    scenario, tasks = choice.build()
    tasks = tasks[: options.count]
    print(describe_tasks(choice, len(tasks)))
    rollout, student = assemble_play(options, scenario)
    result, trajectories = evaluate(
        rollout, tasks, temperature=options.temperature, samples=options.samples
    )
    if options.out is not None:
        write_episodes(options.out / "episodes.jsonl", (each.episode for each in trajectories))
        record = {**result, "precision": student.precision, "options": options.record()}
        write_atomically(options.out / "result.json", json.dumps(record, indent=2))
    Console().print(table(result, f"{options.student} on {choice.name}"))
    return 0


def describe_tasks(choice: Any, count: int) -> str:
    """Which tasks are played, for people."""
    options = choice.options
    if options.tasks is not None:
        return f"{choice.name}: {count} tasks of {options.tasks}"
    shared = {*hints_of(Options), "search"}
    own = {name: value for name, value in vars(options).items() if name not in shared}
    said = "".join(f", {name}={value}" for name, value in own.items())
    return f"{choice.name}: {count} generated tasks, split={options.split}{said}"


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
