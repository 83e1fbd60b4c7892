"""Evaluations on the same questions: grades by question, what is published, paired differences.

A record is what `ovd evaluate --out` writes to result.json. Those in the folder `published` are of
this suite's own baselines; they keep the grades and leave out what only a run needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ovd_agent.runs.comparison import bootstrap
from ovd_envs.errors import OptionError
from retrieval_index.files import write_atomically

RESULT_FILE = "result.json"
PUBLISHED = "published"
_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Record:
    """An evaluation: `grades` has the mean exact match of each task, in the order of the tasks that
    `tasks` is the fingerprint of."""

    name: str
    tasks: str
    benchmark: str
    samples: int
    grades: Sequence[float]

    @property
    def em(self) -> float:
        return float(np.mean(self.grades))


def read_record(path: Path, name: str | None = None) -> Record:
    """A result.json, or the folder of one. Raises OptionError if it cannot be read."""
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        return _record(json.loads(file.read_text("utf-8")), name or path.stem)
    except FileNotFoundError:
        raise OptionError(f"{file}: no such file; `ovd evaluate --out {path}` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{file} holds no grades by question ({error!r}): evaluate again with this version"
        ) from None


def _record(data: Mapping[str, Any], name: str) -> Record:
    samples = int(data.get("samples", 1))
    right = map(int, data["grades"].split())
    benchmark = data.get("benchmark") or data["options"]["env"]["name"]
    return Record(
        data.get("name", name),
        data["tasks_fingerprint"],
        benchmark,
        samples,
        [count / samples for count in right],
    )


def packed_grades(matches: Sequence[float], samples: int) -> str:
    """How many samples of each task are right, in the order of the tasks."""
    counts = np.reshape(matches, (-1, samples)).sum(axis=1).astype(int).tolist()
    return " ".join(map(str, counts))


def published() -> list[Record]:
    """The records that come with this suite."""
    folder = files("ovd_agent") / PUBLISHED
    return [
        _record(json.loads(each.read_text("utf-8")), each.name.removesuffix(".json"))
        for each in sorted(folder.iterdir(), key=lambda each: each.name)
        if each.name.endswith(".json")
    ]


def publish(record: Mapping[str, Any], name: str, folder: Path) -> None:
    """Keep of a result.json what a comparison and a reader need."""
    kept = ("benchmark", "count", "samples", "em", "em_low", "em_high", "f1", "pass_at", "maj_at")
    about = ("tasks_fingerprint", "grades", "student_fingerprint", "precision", "versions")
    chosen = {key: record[key] for key in (*kept, *about) if key in record}
    text = json.dumps({"name": name, **chosen}, indent=1)
    write_atomically(folder / f"{name.replace(' ', '-').replace('/', '-')}.json", text + "\n")


@dataclass(frozen=True, slots=True)
class Paired:
    """How much better a run is than another on the same questions, with a 95% interval over
    questions."""

    other: Record
    mean: float
    low: float
    high: float


def paired(mine: Record, other: Record) -> Paired:
    """Raises OptionError where the tasks differ."""
    if mine.tasks != other.tasks or len(mine.grades) != len(other.grades):
        raise OptionError(
            f"{mine.name} and {other.name} were evaluated on other tasks: evaluate both with the"
            " same benchmark and --count"
        )
    differences = np.subtract(mine.grades, other.grades)
    low, high = bootstrap(differences, level=_LEVEL)
    return Paired(other, float(differences.mean()), low, high)
