"""Can who learned to simulate a search engine judge searches? (Open question 1, arXiv 2601.21968.)

    python benchmarks/discrimination.py           # what the record has is not run again

SmolLM2 learns to write the passages of queries (`ovd train-simulator`), and grades the same
held-out steps before and after. Two controls learn as long from other text: passages of other
queries (shuffled), demonstrations of arithmetic (other). Three seeds each. AUC is the chance that
of a good and a bad step the good one has the higher expected score; 0.5 is a coin.

Predicted before the first run: the AUC of searches rises by at least 0.1 more than that of both
controls (to write what a query finds one must know what was asked for); the AUC of answers rises by
less than 0.05 more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import tyro
from record import RESULTS, begun, surroundings, write_record
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CONTROLS = ("none", "shuffled", "other")
SAID = {"none": "simulates", "shuffled": "passages of other queries", "other": "arithmetic"}
TRAINING = ("--tasks", "40", "--judges", "120", "--env.world-seed", "3")
FIGURES = ("form", "useful", "noisy")
"""What `ovd train-simulator` measures of the passages."""
Runs = dict[str, dict[str, Any]]
"""By control and seed."""


@dataclass(frozen=True)
class Options:
    """Train simulators and their controls, and let them judge."""

    model: str = "smollm2"
    """As `ovd train --student`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    work: Path = ROOT / "runs/discrimination"
    """Where the models are written."""
    out: Path = RESULTS / "discrimination.json"


def trained(options: Options, control: str, seed: int) -> dict[str, Any]:
    """Train one and read what it measured."""
    folder = options.work / f"{control}-{seed}"
    if not (folder / "simulator.json").exists():
        command = [sys.executable, "-m", "ovd_agent.cli.main", "train-simulator", *TRAINING]
        command += ["--model", options.model, "--control", control, "--seed", str(seed)]
        subprocess.run([*command, "--out", str(folder)], check=True, cwd=ROOT)
    record = json.loads((folder / "simulator.json").read_text())
    return {
        when: {
            "auc": {
                each["kind"]: round(each["auc"], 3)
                for each in record[when]["judged"]
                if each["auc"] == each["auc"]
            },
            "steps": {
                each["kind"]: [each["good"], each["steps"]] for each in record[when]["judged"]
            },
            **{name: round(record[when][name], 3) for name in FIGURES},
        }
        for when in ("before", "after")
    }


def rows_of(runs: Runs, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What each group learned, by kind of step, over the seeds that it has."""
    found: list[dict[str, Any]] = []
    for control in CONTROLS:
        records = [runs[name] for seed in seeds if (name := f"{control}-{seed}") in runs]
        for kind in ("answer", "search"):
            before, after = (
                [each[when]["auc"][kind] for each in records] for when in ("before", "after")
            )
            gains = [late - early for early, late in zip(before, after, strict=True)]
            if gains:
                spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
                row = {"learned": SAID[control], "kind": kind, "before": before, "after": after}
                found.append({**row, "gain": f"{fmean(gains):+.2f}{spread}"})
    return found


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    what = {"model": options.model, "training": " ".join(TRAINING)}
    record = begun(options.out)
    same = all(record.get(name) == value for name, value in what.items())
    runs: Runs = record["results"] if same else {}
    for seed in options.seeds:  # seed by seed, so that what was broken off can be compared
        for control in CONTROLS:
            if f"{control}-{seed}" not in runs:
                found = trained(options, control, seed)
                runs[f"{control}-{seed}"] = found | surroundings(("torch", "transformers"))
                write_record(options.out, {"results": runs, **what})
    table = Table("learned", "steps", "AUC before", "after", "gain")
    for row in rows_of(runs, options.seeds):
        each = (" ".join(f"{auc:.2f}" for auc in row[when]) for when in ("before", "after"))
        table.add_row(row["learned"], row["kind"], *each, row["gain"])
    Console().print(table)


if __name__ == "__main__":
    main()
