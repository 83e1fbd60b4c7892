"""What a finished run left in its folder, for reports and comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd_agent.runs.config import CONFIG_FILE
from ovd_agent.runs.logs import REJECTIONS_FILE, read_log
from ovd_envs.episode import Episode, read_episodes
from ovd_envs.errors import OptionError
from retrieval_index.files import locked

SUMMARY_FILE = "summary.json"
LOCK_FILE = ".lock"
BEFORE_FILE, AFTER_FILE = "episodes_before.jsonl", "episodes_after.jsonl"
FILES = (CONFIG_FILE, SUMMARY_FILE, "log.jsonl", "eval.jsonl", BEFORE_FILE, AFTER_FILE)

Record = dict[str, Any]


def held(out: Path) -> AbstractContextManager[object]:
    """Keeps other processes from training in a run's folder. Raises OptionError if one does."""
    sentence = f"another process is training in {out}: wait for it, or choose another --out"
    return locked(out / LOCK_FILE, OptionError(sentence))


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """Configuration, summary, a record for each update and evaluation, and held-out episodes."""

    config: Record
    summary: Record
    updates: list[Record]
    evaluations: list[Record]
    before: list[Episode]
    after: list[Episode]
    rejections: list[Record]
    """Of some updates a rejected play beside its replacement."""

    @property
    def score_levels(self) -> int:
        """Verbal scores are 0..score_levels-1."""
        return int(self.config["env"]["score_levels"])

    @property
    def pairs(self) -> list[tuple[Episode, Episode]]:
        """Episodes of the same task before and after training."""
        return list(self._pairs())

    def _pairs(self) -> Iterator[tuple[Episode, Episode]]:
        later = {(each.task.id, each.task.prompt): each for each in self.after}
        for each in self.before:
            if found := later.get((each.task.id, each.task.prompt)):
                yield each, found


def read_run(folder: Path) -> FinishedRun:
    """Raises OptionError when a file of the run is missing, ValueError when one is damaged."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise OptionError(
            f"{folder} is not a finished run: it has no {', '.join(missing)}; give the folder"
            " (--out) of a training that has ended"
        )
    return FinishedRun(
        _read_json(folder / CONFIG_FILE),
        _read_json(folder / SUMMARY_FILE),
        read_log(folder / "log.jsonl"),
        read_log(folder / "eval.jsonl"),
        list(read_episodes(folder / BEFORE_FILE)),
        list(read_episodes(folder / AFTER_FILE)),
        read_log(folder / REJECTIONS_FILE),
    )


def _read_json(path: Path) -> Record:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path}: not JSON: {error}") from None
