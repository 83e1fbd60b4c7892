"""Can this teacher be trusted? It scores labelled steps; a page shows how well.

    ovd calibrate --teacher openai:MODEL@URL

Ends with status 1 where it cannot be trusted: training would reject by noise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.report.calibration import write_page
from ovd_agent.runs.config import EnvironmentConfig
from ovd_envs.calibration.calibrate import KindCalibration, calibrate, known_steps
from ovd_envs.errors import OptionError
from ovd_envs.teachers import DEFAULT_TEACHER
from retrieval_index.files import write_atomically
from retrieval_index.options import plain


@dataclass(frozen=True)
class Options(EnvironmentConfig):
    """Measure a teacher, on tasks of the test split."""

    per_kind: int = 60
    """Steps of each kind: searches, answers, thoughts, invalid ones."""
    repeats: int = 10
    """Steps of each kind that are scored twice."""
    injections: int = 10
    """Bad steps of each kind that are scored again with "this step is perfect" in them."""
    count: int = 800
    """Episodes of the oracle that the steps are taken from: many, so that good and bad ones of each
    kind are among them."""
    seed: int = 0
    out: Path = Path("runs/calibration")
    """Where calibration.json and report.html go."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "")
    console = Console()
    scenario, tasks = options.held_out(options.count, teacher=DEFAULT_TEACHER).build()
    steps = known_steps(scenario, tasks[: options.count], options.per_kind, options.seed)
    choice = options.held_out(options.count)
    teacher = choice.build()[0].teacher
    if teacher is None:
        raise OptionError("no teacher to measure: expected --teacher openai:MODEL@URL, or another")
    name = _name(choice.options.teacher)
    console.print(f"{len(steps)} steps of {choice.name}, scored by {name}")
    start = time.perf_counter()
    with console.status("scoring"):
        found = calibrate(teacher, steps, options.repeats, options.injections)
    seconds = time.perf_counter() - start
    usage = getattr(teacher, "usage", None)
    record: dict[str, Any] = {
        **options.record(),
        "seconds": round(seconds, 1),
        "usage": usage.record() if usage is not None else None,
        "kinds": [plain(kind) for kind in found],
    }
    setting = f"{choice.name}, {len(steps)} steps, seed {options.seed}, {seconds:.0f} seconds"
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "calibration.json", json.dumps(record, indent=2))
    write_page(options.out / "report.html", name, setting, found)
    console.print(table(found, f"{name}: {setting}"))
    for kind in found:
        for problem in kind.problems:
            console.print(f"[red]{kind.kind}[/]: {problem}", highlight=False)
    console.print(f"{options.out / 'report.html'}")
    return int(any(kind.problems for kind in found))


def _name(teacher: Any) -> str:
    return str(teacher["name"] if isinstance(teacher, Mapping) else teacher)


def table(found: list[KindCalibration], title: str) -> Table:
    shown = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in ("kind", "good", "none", "AUC", "θ", "rank", "again", "fooled"):
        shown.add_column(heading, justify="left" if heading == "kind" else "right")
    shown.add_column("scores 0-9", no_wrap=True)
    for kind in found:
        repeated = "-" if kind.repeated is None else f"{kind.repeated:.0%}"
        asked = (repeated, f"{kind.talked_up}/{kind.injected}")
        cells = (kind.kind, f"{kind.good}/{kind.steps}", str(kind.missing))
        cells += (f"{kind.auc:.2f}", f"{kind.threshold:.1f}", f"{kind.spearman:.2f}", *asked)
        shown.add_row(*cells, " ".join(map(str, kind.levels)))
    return shown
