"""Can this teacher be trusted? It scores steps whose worth is known; a page shows how well.

    python scripts/calibrate.py --teacher openai:teacher@http://127.0.0.1:8002/v1

Exits with status 1 where it cannot: `train.py` would reject by noise.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.report.calibration import write_page
from ovd_envs.calibration import KindCalibration, calibrate, known_steps
from ovd_envs.errors import OVDError
from ovd_envs.make import make_scenario


@dataclass(frozen=True)
class Options:
    """Measure a teacher."""

    teacher: str
    """As in train.py: "openai:MODEL@URL", or "oracle" to see what perfect looks like."""
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    tasks: str | None = None
    """JSON Lines file of tasks that name their passages, instead of generated ones."""
    search: str | None = None
    """Index folder (WebQA), instead of the generated encyclopedia."""
    per_kind: int = 60
    """Steps of each kind: searches, answers, thoughts, unreadable ones."""
    repeats: int = 10
    """Steps of each kind that are scored twice."""
    count: int = 200
    """Episodes that the steps are taken from."""
    seed: int = 0
    out: Path = Path("runs/calibration")
    """Where calibration.json and report.html go."""


def main(options: Options) -> int:
    console = Console()
    webqa = {"search": options.search} if options.env == "ovd/WebQA-v0" else {}
    what: dict[str, Any] = {
        "tasks": options.tasks,
        "count": options.count,
        "split": "test",
        **webqa,
    }
    scenario, tasks = make_scenario(options.env, **what)
    steps = known_steps(scenario, tasks[: options.count], options.per_kind, options.seed)
    teacher = make_scenario(options.env, teacher=options.teacher, **what)[0].teacher
    assert teacher is not None
    console.print(f"{len(steps)} steps of {options.env}, scored by {options.teacher}")
    start = time.perf_counter()
    with console.status("scoring"):
        found = calibrate(teacher, steps, options.repeats)
    seconds = time.perf_counter() - start
    usage = getattr(teacher, "usage", None)
    record: dict[str, Any] = {
        **{name: str(value) for name, value in asdict(options).items()},
        "seconds": round(seconds, 1),
        "usage": asdict(usage) if usage is not None else None,
        "kinds": [asdict(kind) for kind in found],
    }
    setting = f"{options.env}, {len(steps)} steps, seed {options.seed}, {seconds:.0f} seconds"
    options.out.mkdir(parents=True, exist_ok=True)
    temporary = options.out / "calibration.json.tmp"
    temporary.write_text(json.dumps(record, indent=2))
    temporary.replace(options.out / "calibration.json")
    write_page(options.out / "report.html", options.teacher, setting, found)
    console.print(table(found, f"{options.teacher}: {setting}"))
    for kind in found:
        for problem in kind.problems:
            console.print(f"[red]{kind.kind}[/]: {problem}", highlight=False)
    console.print(f"{options.out / 'report.html'}")
    return int(any(kind.problems for kind in found))


def table(found: list[KindCalibration], title: str) -> Table:
    shown = Table(title=title)
    headings = (
        "steps",
        "of them",
        "good",
        "missing",
        "scores 0-9",
        "AUC",
        "rank corr.",
        "same again",
    )
    for heading in headings:
        shown.add_column(heading, justify="left" if heading == "steps" else "right")
    for kind in found:
        repeated = "-" if kind.repeated is None else f"{kind.repeated:.0%}"
        counts = " ".join(map(str, kind.levels))
        figures = (f"{kind.auc:.2f}", f"{kind.spearman:.2f}", repeated)
        shown.add_row(kind.kind, *map(str, (kind.steps, kind.good, kind.missing)), counts, *figures)
    return shown


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except OVDError as error:
        sys.exit(str(error))
