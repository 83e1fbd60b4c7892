"""Runs of a comparison: from their folders, and from a record that a repository keeps.

record.json holds per run the grade of every held-out question, so that each printed table and
interval can be computed again. Older records are CSV files of one line a run, without grades.
"""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers

from ovd_agent.runs.comparison import LEDGER, Arms, Run, collapsed
from ovd_agent.runs.folder import read_run
from ovd_envs.errors import OptionError
from retrieval_index.files import write_atomically


def read_arm(folder: Path) -> Run:
    """A finished run of `ovd train`. Raises OptionError where it is not finished."""
    run = read_run(folder)
    shares = run.summary["acceptance"]
    grades = {episode.task.id: episode.exact_match or 0.0 for episode in run.after}
    em = sum(grades.values()) / len(grades)
    return Run(
        seed=int(run.summary["seed"]),
        em=em,
        collapsed=collapsed(em, [float(line["em"]) for line in run.evaluations]),
        grades=grades,
        hops={episode.task.id: episode.task.hops for episode in run.after},
        ledger={name: float(run.summary[name]) for name in LEDGER if name in run.summary},
        acceptance=tuple(share for share in shares if share is not None),
    )


def write_record(path: Path, arms: Arms, baseline: str, plan: str) -> None:
    """Everything that tables and intervals are computed from, as JSON."""
    first = next(iter(arms.values()))[0]
    record: dict[str, Any] = {
        "plan": plan,
        "baseline": baseline,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "questions": list(first.grades),
        "hops": [first.hops[name] for name in first.grades],
        "arms": {name: [_as_json(run) for run in runs] for name, runs in arms.items()},
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items()]
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _as_json(run: Run) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "em": round(run.em, 6),
        "collapsed": run.collapsed,
        "grades": [int(grade) if grade in (0, 1) else grade for grade in run.grades.values()],
        "ledger": dict(run.ledger),
        "acceptance": [round(share, 4) for share in run.acceptance],
    }


def read_record(path: Path) -> tuple[dict[str, list[Run]], str | None]:
    """The arms of a record, and its baseline where it names one. Raises OptionError."""
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".csv":
            return _from_csv(text), None
        record = json.loads(text)
        return _from_json(record), record["baseline"]
    except FileNotFoundError:
        raise OptionError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{path} is no record of a comparison ({type(error).__name__} {error}): expected the"
            " record.json or results.csv of `ovd compare`"
        ) from None


def _from_json(record: Mapping[str, Any]) -> dict[str, list[Run]]:
    names, hops = record["questions"], dict(zip(record["questions"], record["hops"], strict=True))
    return {
        arm: [
            Run(
                int(each["seed"]),
                float(each["em"]),
                bool(each["collapsed"]),
                dict(zip(names, each["grades"], strict=True)),
                hops,
                each["ledger"],
                tuple(each["acceptance"]),
            )
            for each in runs
        ]
        for arm, runs in cast("Mapping[str, list[dict[str, Any]]]", record["arms"]).items()
    }


def _from_csv(text: str) -> dict[str, list[Run]]:
    arms: dict[str, list[Run]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        ledger = {name: float(row[name]) for name in LEDGER if row.get(name)}
        run = Run(int(row["seed"]), float(row["em"]), row["collapsed"] == "1", ledger=ledger)
        arms.setdefault(row["arm"], []).append(run)
    if not arms:
        raise ValueError("no line")
    return arms


def write_csv(path: Path, arms: Arms) -> None:
    """A line for each run: arm, seed, exact match, whether it collapsed, and the ledger."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["arm", "seed", "em", "collapsed", *LEDGER])
    for name, runs in arms.items():
        for run in runs:
            ledger = [f"{run.ledger.get(key, 0):g}" for key in LEDGER]
            writer.writerow([name, run.seed, f"{run.em:.4f}", int(run.collapsed), *ledger])
    write_atomically(path, lines.getvalue())
