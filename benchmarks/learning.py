"""How much a student learns, over seeds: `python benchmarks/learning.py --task qa --seeds 0 1 2`.

Runs `ovd train --preset demo` for each seed, in runs/learning, and writes held-out EM before and
after, acceptance and the ledger to benchmarks/results. A run that was stopped goes on where it was,
one that is finished is read, and seeds that were recorded before stay in the table.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from json import loads
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_agent.models import compute_dtype

KEPT = (
    *("em_before", "em_after", "acceptance", "seconds", "updates", "threads", "precision"),
    *("student_tokens", "teacher_tokens", "score_calls", "demonstrations"),
    *("distinct_demonstrations", "teacher"),
    *("trained_tokens", "computed_tokens", "optimizer_steps"),
)


@dataclass(frozen=True)
class Learning:
    """Train with several seeds and compare."""

    task: Literal["qa", "math"] = "qa"
    seeds: tuple[int, ...] = (0, 1, 2)
    updates: int | None = None
    """More than the demo's."""
    runs: Path = Path("runs/learning")
    """A seed whose run is there and finished is read; one that was stopped is resumed."""
    show: bool = False
    """Print the record, and measure nothing."""


def main(config: Learning) -> None:
    name = f"{config.task}-{config.updates}" if config.updates else config.task
    # What ran on processors with and without bfloat16 is not one table.
    name += f"-{compute_dtype(torch.device('cpu'))}".replace("torch.", "")
    recorded = RESULTS / f"learning_{name}.json"
    if config.show:
        show(config.task, loads(recorded.read_text())["results"])
        return
    results: dict[str, dict[str, Any]] = {}
    for seed in config.seeds:
        out = config.runs / f"{name}-{seed}"
        if not (out / "summary.json").exists():
            preset = "demo" if config.task == "qa" else "demo-math"
            command = [sys.executable, "-m", "ovd_agent.cli.main", "train", "--preset", preset]
            command += ["--seed", str(seed), "--out", str(out)]
            command += ["--updates", str(config.updates)] if config.updates else []
            subprocess.run(command, check=True)
        summary = loads((out / "summary.json").read_text())
        hops = {hop: row["em"] for hop, row in summary["after"]["per_hop"].items()}
        results[str(seed)] = {key: summary[key] for key in KEPT} | {"em_after_per_hop": hops}
    show(config.task, results)
    record = {"results": results, **surroundings(["torch", "transformers"])}
    write_record(recorded, record)


def show(task: str, results: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"demo, {task}: held-out EM, greedy")
    for column in ("seed", "before", "after", "per hop", "accepted, by update", "minutes"):
        table.add_column(column)
    for seed, row in results.items():
        hops = ", ".join(f"{hop}: {em:.2f}" for hop, em in row["em_after_per_hop"].items())
        accepted = " ".join(f"{share:.2f}" for share in row["acceptance"])
        cells = (f"{row['em_before']:.3f}", f"{row['em_after']:.3f}", hops, accepted)
        table.add_row(seed, *cells, f"{row['seconds'] / 60:.1f}")
    after = [row["em_after"] for row in results.values()]
    spread = f" ± {stdev(after):.3f}" if len(after) > 1 else ""
    table.caption = f"after: {mean(after):.3f}{spread}, least {min(after):.3f}"
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Learning, description=__doc__))
