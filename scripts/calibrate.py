"""Can this teacher be trusted? It scores steps whose worth is known; a page shows how well.

    python scripts/calibrate.py --environment.teacher openai:MODEL@URL

Exits with status 1 where it cannot: `train.py` would reject by noise.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from ovd_agent.config import EnvironmentConfig
from ovd_agent.report.calibration import write_page
from ovd_envs.calibration import KindCalibration, calibrate, known_steps
from ovd_envs.errors import OVDError
from ovd_envs.make import make_scenario
from retrieval_index.files import write_atomically


@dataclass(frozen=True)
class Options:
    """Measure a teacher."""

    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    """As in train.py; its `teacher` is measured, on tasks of the test split."""
    per_kind: int = 60
    """Steps of each kind: searches, answers, thoughts, unreadable ones."""
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


def main(options: Options) -> int:
    console = Console()
    name = options.environment.teacher
    what = options.environment.options(options.env, "test", options.count)
    scenario, tasks = make_scenario(options.env, **what | {"teacher": "oracle"})
    steps = known_steps(scenario, tasks[: options.count], options.per_kind, options.seed)
    teacher = make_scenario(options.env, **what)[0].teacher
    assert teacher is not None
    console.print(f"{len(steps)} steps of {options.env}, scored by {name}")
    start = time.perf_counter()
    with console.status("scoring"):
        found = calibrate(teacher, steps, options.repeats, options.injections)
    seconds = time.perf_counter() - start
    usage = getattr(teacher, "usage", None)
    record: dict[str, Any] = {
        **{name: str(value) for name, value in asdict(options).items()},
        "seconds": round(seconds, 1),
        "usage": usage.record() if usage is not None else None,
        "kinds": [asdict(kind) for kind in found],
    }
    setting = f"{options.env}, {len(steps)} steps, seed {options.seed}, {seconds:.0f} seconds"
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "calibration.json", json.dumps(record, indent=2))
    write_page(options.out / "report.html", name, setting, found)
    console.print(table(found, f"{name}: {setting}"))
    for kind in found:
        for problem in kind.problems:
            console.print(f"[red]{kind.kind}[/]: {problem}", highlight=False)
    console.print(f"{options.out / 'report.html'}")
    return int(any(kind.problems for kind in found))


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


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except OVDError as error:
        sys.exit(str(error))
