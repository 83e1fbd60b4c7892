"""Can who learned to simulate a search engine judge searches? (Open question 1, arXiv 2601.21968.)

    python benchmarks/discrimination.py           # runs that are finished are read

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CONTROLS = ("none", "shuffled", "other")
SAID = {"none": "simulates", "shuffled": "passages of other queries", "other": "arithmetic"}
TRAINING = ("--tasks", "60", "--judges", "120", "--env.world-seed", "3")


@dataclass(frozen=True)
class Options:
    """Train simulators and their controls, and let them judge."""

    model: str = "smollm2"
    """As `ovd train --student`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = ROOT / "runs/discrimination"


def finished(options: Options, control: str, seed: int) -> dict[str, Any]:
    """The record of a run, which is made where it is not there."""
    folder = options.out / f"{control}-{seed}"
    if not (folder / "simulator.json").exists():
        command = [sys.executable, "-m", "ovd_agent.cli.main", "train-simulator", *TRAINING]
        command += ["--model", options.model, "--control", control, "--seed", str(seed)]
        subprocess.run([*command, "--out", str(folder)], check=True, cwd=ROOT)
    return json.loads((folder / "simulator.json").read_text())


def areas(record: Mapping[str, Any], when: str) -> dict[str, float]:
    """AUC by kind of step, where steps of the kind were good and bad."""
    judged: Sequence[Mapping[str, Any]] = record[when]["judged"]
    return {each["kind"]: each["auc"] for each in judged if each["auc"] == each["auc"]}


def rows_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What each group learned, by kind of step, over its seeds."""
    found: list[dict[str, Any]] = []
    for control, records in runs.items():
        for kind in sorted(areas(records[0], "before")):
            before, after = (
                [areas(each, when)[kind] for each in records] for when in ("before", "after")
            )
            gains = [late - early for early, late in zip(before, after, strict=True)]
            found.append(
                {
                    "learned": SAID[control],
                    "kind": kind,
                    "before": [round(each, 3) for each in before],
                    "after": [round(each, 3) for each in after],
                    "gain": round(fmean(gains), 3),
                    "sd": round(stdev(gains), 3) if len(gains) > 1 else None,
                }
            )
    return found


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    runs: dict[str, list[Mapping[str, Any]]] = {control: [] for control in CONTROLS}
    for seed in options.seeds:  # seed by seed, so that what was broken off can be compared
        for control in CONTROLS:
            runs[control].append(finished(options, control, seed))
    rows = rows_of(runs)
    written = {
        SAID[control]: [{name: each["after"][name] for name in FIGURES} for each in records]
        for control, records in runs.items()
    }
    write_record(
        RESULTS / "discrimination.json",
        {
            **surroundings(("torch", "transformers")),
            "model": options.model,
            "seeds": options.seeds,
            "training": " ".join(TRAINING),
            "auc": rows,
            "wrote": written,
        },
    )
    table = Table("learned", "steps", "AUC before", "after", "gain")
    for row in rows:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.2f}"
        each = (" ".join(f"{auc:.2f}" for auc in row[when]) for when in ("before", "after"))
        table.add_row(row["learned"], row["kind"], *each, f"{row['gain']:+.2f}{spread}")
    Console().print(table)


FIGURES = ("form", "useful", "noisy")
"""What `ovd train-simulator` measures of the passages."""


if __name__ == "__main__":
    main()
