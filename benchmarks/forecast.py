"""The memory that `ovd train --dry-run` foresees beside the peak of the run itself.

    .venv/bin/python benchmarks/forecast.py

One update of each student in a process of its own, whose peak is that of its resident memory.
`--gpu` measures nothing: it prints what the presets for one GPU are foreseen to take there, for
the shapes of Qwen2.5.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from gpu import SHAPES
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.forecast import HELPS, forecast, foreseen
from ovd_agent.runs.logs import read_log
from ovd_agent.runs.presets import read_preset


@dataclass(frozen=True)
class Options:
    """Compare forecasts of memory with runs."""

    students: tuple[str, ...] = ("smollm2", "qwen2.5-coder-0.5b")
    algorithm: str = "ovd"
    tasks_per_update: int = 8
    eval_count: int = 8
    gpu: bool = False
    out: Path = RESULTS / "forecast.json"


def main(options: Options) -> None:
    if options.gpu:
        return on_a_gpu()
    table = Table("student", "foreseen, MiB", "peak, MiB", "ratio")
    found: dict[str, Any] = {}
    for student in options.students:
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                student=student,
                algorithm=options.algorithm,
                updates=1,
                tasks_per_update=options.tasks_per_update,
                eval_count=options.eval_count,
                out=Path(folder) / "run",
            )
            foreseen = forecast(config)
            peak = _peak(config)
        total = foreseen.total / 2**20
        found[student] = {
            "foreseen_mb": round(total),
            "peak_mb": round(peak),
            "parts_mb": {name: round(size / 2**20) for name, size in foreseen.parts.items()},
        }
        table.add_row(student, f"{total:,.0f}", f"{peak:,.0f}", f"{total / peak:.2f}")
    Console().print(table)
    write_record(options.out, {**found, **surroundings(["torch", "transformers"])})


def on_a_gpu() -> None:
    table = Table("preset", "shape", *HELPS, "together", title="GiB on a GPU, foreseen")
    for preset in ("one-gpu", "one-gpu-lora"):
        for shape in ("0.5b", "1.5b", "7b"):
            config = parse(TrainConfig, [], "", read_preset(preset))
            parts = foreseen(config, SHAPES[shape](), "cuda", torch.bfloat16)
            cells = [f"{parts[name] / 2**30:.1f}" for name in HELPS]
            table.add_row(preset, shape, *cells, f"{sum(parts.values()) / 2**30:.1f}")
    Console(width=140).print(table)


def _peak(config: TrainConfig) -> float:
    words = ["--student", config.student, "--algorithm", str(config.algorithm), "--out"]
    words += [str(config.out), "--updates", "1", "--tasks-per-update"]
    words += [str(config.tasks_per_update), "--eval-count", str(config.eval_count)]
    subprocess.run([sys.executable, "-m", "ovd_agent.cli.main", "train", *words], check=True)
    [line] = read_log(config.out / "log.jsonl")
    return float(line["peak_memory_mb"])


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
