"""The short runs by which the demo's options were chosen.

    .venv/bin/python benchmarks/pilots.py --variants none student --seeds 10 11

Each trains with `ovd train` on world 1 (the demo's is world 2) and plays 100 held-out
questions of it greedily, all in runs/pilots. A run that is finished is read, one that was stopped
goes on. `--threads 1` lets two of these commands share a machine of two cores.

Predicted before `shaped`, `ratio-one` and `literal` ran here (seeds 10 and 11): `literal` stays at
0, since a group that is replaced as a whole has no advantage; `shaped` ends 0.1 or more below
`none`, since the gradient of p / (p + 0.1) nearly vanishes for a token that the student never
writes; `ratio-one` ends within 0.1 of `none`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

OVD = (sys.executable, "-m", "ovd_agent.cli.main")
WORLD = ("--env.world-seed", "1")
COMMON = (*("--updates", "8", "--eval-count", "1", "--checkpoint-every", "100"),)
BASELINE, LOSS = "--algorithm.advantage.baseline", "--algorithm.demonstration-loss"
LONGER = ("--rollout.max-new-tokens", "44")
VARIANTS: dict[str, tuple[str, ...]] = {
    "none": (BASELINE, "none"),
    "student": (BASELINE, "student"),
    "student-44": (BASELINE, "student", *LONGER),
    "no-pg-44": (BASELINE, "student", "--algorithm.policy.weight", "0", *LONGER),
    "shaped": (BASELINE, "none", LOSS, "shaped"),
    "ratio-one": (BASELINE, "student", LOSS, "ratio_one"),
    "literal": (BASELINE, "mixture", LOSS, "ratio_one", "--algorithm.advantage.divide-by-std"),
}
"""What differs from `COMMON`; a later option wins over an earlier one."""


@dataclass(frozen=True)
class Pilots:
    """Train variants and compare."""

    variants: tuple[str, ...] = ("none", "student")
    seeds: tuple[int, ...] = (10, 11)
    threads: int | None = None
    runs: Path = Path("runs/pilots")
    out: Path = RESULTS / "pilots.json"


def main(config: Pilots) -> None:
    results: dict[str, dict[str, Any]] = {}
    if config.out.exists():
        results = json.loads(config.out.read_text())["results"]
    for variant in config.variants:
        for seed in config.seeds:
            folder = config.runs / f"{variant}-{seed}"
            results[folder.name] = run(variant, seed, folder, config.threads)
            record = {"common": COMMON, "variants": VARIANTS, "results": results}
            write_record(config.out, record | surroundings(["torch", "transformers"]))
    show(results)


def run(variant: str, seed: int, folder: Path, threads: int | None) -> dict[str, Any]:
    limit = ["--threads", str(threads)] if threads else []
    if not (folder / "summary.json").exists():
        command = [*OVD, "train", "--out", str(folder)]
        command += ["--seed", str(seed), *WORLD, *COMMON, *VARIANTS[variant], *limit]
        subprocess.run(command, check=True)
    if not (folder / "heldout/result.json").exists():
        command = [*OVD, "evaluate", "--student", str(folder)]
        command += ["--count", "100", "--out", str(folder / "heldout"), *WORLD, *limit]
        subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    heldout = json.loads((folder / "heldout/result.json").read_text())
    return {
        "em": heldout["em"],
        "per_hop": {hop: row["em"] for hop, row in heldout["per_hop"].items()},
        "acceptance": summary["acceptance"],
        "demonstrations": summary["demonstrations"],
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("variant-seed", "EM", "per hop", "accepted, by update", "demonstrations")
    for name, row in results.items():
        hops = ", ".join(f"{hop}: {em:.2f}" for hop, em in row["per_hop"].items())
        accepted = " ".join(f"{share:.2f}" for share in row["acceptance"])
        table.add_row(name, f"{row['em']:.2f}", hops, accepted, str(row["demonstrations"]))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Pilots, description=__doc__))
