"""Episodes of a run by their place in its files: what is listed is kept in memory, the rest is read
when it is asked for, so that 100,000 episodes are no more than a list of short records."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ovd_agent.runs.folder import AFTER_FILE, BEFORE_FILE
from ovd_agent.runs.logs import PLAYED_FILE, read_log
from ovd_envs.errors import OptionError

SOURCES = {"training": PLAYED_FILE, "before": BEFORE_FILE, "after": AFTER_FILE}
PAGE = 50
_MOST = 500
"""Episodes of a page at most."""


@dataclass(frozen=True, slots=True)
class Line:
    """An episode in a list."""

    place: int
    task: str
    question: str
    hops: int
    turns: int
    score: float | None
    """The mean of its steps' scores."""
    em: float | None
    end: str
    update: int | None
    kind: str
    """"sample", "demonstration" or "continuation"; of held-out play always "sample"."""


@dataclass(slots=True)
class EpisodeFile:
    """A JSON Lines file of episodes that may still grow."""

    path: Path
    lines: list[Line] = field(default_factory=list[Line])
    _starts: list[int] = field(default_factory=list[int])
    _read: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Take in what was written since; a file that became shorter is read anew."""
        with self._lock:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size < self._read:
                self.lines, self._starts, self._read = [], [], 0
            if size == self._read:
                return
            with self.path.open("rb") as file:
                file.seek(self._read)
                for text in file:
                    if not text.endswith(b"\n"):
                        break  # half written
                    self.lines.append(_line(len(self.lines), json.loads(text)))
                    self._starts.append(self._read)
                    self._read += len(text)

    def record(self, place: int) -> dict[str, Any]:
        """The whole episode. Raises KeyError for a place that there is not."""
        if not 0 <= place < len(self._starts):
            raise KeyError(place)
        with self.path.open("rb") as file:
            file.seek(self._starts[place])
            return json.loads(file.readline())


class RunStore:
    """The episodes, curves and configuration of a run's folder.

    Raises OptionError where it is no run's folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").exists():
            raise OptionError(f"{folder} has no config.json: expected a run's folder")
        self.folder = folder
        self.files = {name: EpisodeFile(folder / file) for name, file in SOURCES.items()}

    def summary(self) -> dict[str, Any]:
        """What the run is, and its figures update by update."""
        config = json.loads((self.folder / "config.json").read_text("utf-8"))
        updates = read_log(self.folder / "log.jsonl")
        for file in self.files.values():
            file.refresh()
        return {
            "name": self.folder.name,
            "env": config["env"]["name"],
            "algorithm": config["algorithm"]["name"],
            "student": config["student"],
            "updates": config["updates"],
            "counts": {name: len(file.lines) for name, file in self.files.items()},
            "curves": {name: [line.get(name) for line in updates] for name in _CURVES},
            "evaluations": [
                {"update": each["update"], "em": each["em"]}
                for each in read_log(self.folder / "eval.jsonl")
            ],
        }

    def page(self, source: str, wanted: Mapping[str, str]) -> dict[str, Any]:
        """The episodes that fit `wanted`, from `offset` on; raises KeyError for another source and
        ValueError for a filter that is no number."""
        file = self.files[source]
        file.refresh()
        fitting = [line for line in file.lines if _fits(line, wanted)]
        if wanted.get("order") == "newest":
            fitting.reverse()
        offset, limit = int(wanted.get("offset", 0)), min(_MOST, int(wanted.get("limit", PAGE)))
        shown = fitting[max(0, offset) : max(0, offset) + max(1, limit)]
        return {"total": len(fitting), "episodes": [asdict(line) for line in shown]}

    def episode(self, source: str, place: int) -> dict[str, Any]:
        """An episode with those of the same task: in the same update of training, or before and
        after. Raises KeyError where there is none."""
        for file in self.files.values():
            file.refresh()
        record = self.files[source].record(place)
        return {"source": source, "place": place, **record, "beside": self._beside(source, place)}

    def _beside(self, source: str, place: int) -> list[dict[str, Any]]:
        mine = self.files[source].lines[place]
        found: list[dict[str, Any]] = []
        for name, file in self.files.items():
            if (name == "training") != (source == "training"):
                continue
            for line in file.lines:
                same = line.task == mine.task and line.update == mine.update
                if same and (name, line.place) != (source, place):
                    found.append({"source": name, **asdict(line)})
        return found[:_MOST]


_CURVES = ("em", "acceptance", "score_mean", "loss", "entropy", "reward", "turns")


def _line(place: int, record: Mapping[str, Any]) -> Line:
    episode: Mapping[str, Any] = record.get("episode", record)
    scores = [
        turn["score"]["expected"]
        for turn in episode["turns"]
        if turn.get("score") and turn["score"].get("expected") is not None
    ]
    return Line(
        place,
        episode["task"]["id"],
        episode["task"]["prompt"][:200],
        episode["task"].get("hops", 1),
        len(episode["turns"]),
        sum(scores) / len(scores) if scores else None,
        episode.get("exact_match"),
        str(episode.get("end_reason")),
        record.get("update"),
        record.get("kind", "sample"),
    )


def _fits(line: Line, wanted: Mapping[str, str]) -> bool:
    text = wanted.get("text", "").lower()
    checks = (
        not text or text in line.question.lower() or text in line.task.lower(),
        _same(wanted.get("hops"), line.hops),
        _same(wanted.get("update"), line.update),
        not wanted.get("end") or wanted["end"] == line.end,
        not wanted.get("kind") or wanted["kind"] == line.kind,
        not wanted.get("em") or (line.em is not None and float(wanted["em"]) == line.em),
        _between(line.score, wanted.get("least"), wanted.get("most")),
    )
    return all(checks)


def _same(wanted: str | None, value: int | None) -> bool:
    return not wanted or int(wanted) == value


def _between(value: float | None, least: str | None, most: str | None) -> bool:
    if not least and not most:
        return True
    return value is not None and float(least or "-inf") <= value <= float(most or "inf")
