"""SmolLM2 trained by two processes of TRL on one machine.

    python benchmarks/processes.py

Five updates of OVD on ovd/WebQA-v0 in runs/trl_two, each process with one thread; a run that is
finished there is read, one that was stopped goes on. The record also has what `ovd train` logged:
acceptance, seconds, and `gap_max`, how far the learner's log-probabilities were from the policy's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, surroundings, write_record

from ovd_agent.runs.logs import read_log

ROOT = Path(__file__).parents[1]
PROCESSES = 2
OWN = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
MAIN = "ovd_agent.cli.main"
OUT = ROOT / "runs/trl_two"
TRAIN = (
    *("train", "--engine", "trl", "--student", "smollm2", "--algorithm", "ovd"),
    *("--env", "ovd/WebQA-v0", "--env.world-seed", "2", "--updates", "5"),
    *("--tasks-per-update", "8", "--eval-count", "40"),
)


def played() -> dict[str, Any]:
    """Train, where it is not done; returns the run's summary."""
    if not (OUT / "summary.json").exists():
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
        command = [*launcher, str(PROCESSES), "-m", MAIN, *TRAIN, "--out", str(OUT)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **OWN})
    return json.loads((OUT / "summary.json").read_text())


def main() -> None:
    summary, updates = played(), read_log(OUT / "log.jsonl")
    stages = dict.fromkeys(name for each in updates for name in each["seconds"])
    record = {
        "command": " ".join(["torchrun", "--nproc-per-node", str(PROCESSES), "-m", MAIN, *TRAIN]),
        "seed": summary["seed"],
        "em_before": summary["em_before"],
        "after": {name: summary["after"][name] for name in ("em", "em_low", "em_high", "count")},
        "acceptance": [each["acceptance"] for each in updates],
        "demonstrations": summary["demonstrations"],
        "seconds": round(summary["seconds"], 1),
        "seconds_by_stage": {
            name: round(sum(each["seconds"].get(name, 0.0) for each in updates), 1)
            for name in stages
        },
        "gap_max": max(each["gap"] for each in updates),
        "peak_memory_mb": max(each["peak_memory_mb"] for each in updates),
        **surroundings(("torch", "transformers", "trl", "accelerate")),
        **OWN,
    }
    write_record(RESULTS / "trl_two_processes.json", record)
    after = record["after"]
    print(f"EM {record['em_before']:.2f} before, {after['em']:.2f} after", end=" ")
    print(f"[{after['em_low']:.2f}, {after['em_high']:.2f}], {record['seconds'] / 60:.1f} minutes")


if __name__ == "__main__":
    main()
