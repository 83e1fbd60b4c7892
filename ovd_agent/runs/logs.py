"""What a run leaves behind while it runs: log.jsonl, eval.jsonl, loggers, a progress bar.

A run that was killed may have left a torn last line, and updates that its checkpoint does not
know of. `RunLog` drops both when the run is resumed, so that every update appears exactly once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from ovd_agent.runs.loggers import Loggers, RunOf
from retrieval_index.files import write_atomically

REJECTIONS_FILE = "rejections.jsonl"
"""Of each update one rejected play beside what replaced it."""
PLAYED_FILE = "episodes_training.jsonl"
"""Every play of training, with the update that it belongs to."""
_PACE = 10
"""The pace is that of this many latest updates."""


class RunLog:
    """A context manager around the updates of a run; `quiet` shows no progress.

    The time left is that of the updates to come, at the pace of the latest ones, and of the
    evaluations to come, as long as the latest one.
    """

    def __init__(
        self,
        folder: Path,
        total_updates: int,
        *,
        quiet: bool = False,
        resume_from: int = 0,
        eval_every: int = 0,
        loggers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._updates, self._evaluations = folder / "log.jsonl", folder / "eval.jsonl"
        _keep(self._updates, lambda update: update < resume_from)
        _keep(folder / REJECTIONS_FILE, lambda update: update < resume_from)
        _cut(folder / PLAYED_FILE, resume_from)
        # An evaluation at update n was made with the weights of n updates; 0 is the beginning.
        _keep(self._evaluations, lambda update: update <= resume_from)
        evaluations = read_log(self._evaluations)
        self.evaluated = {record["update"] for record in evaluations}
        self._evaluation_seconds = [record.get("seconds", 0.0) for record in evaluations]
        self._seconds = [record["seconds"]["total"] for record in read_log(self._updates)]
        self._total, self._every = total_updates, eval_every
        self._logger_names = tuple(loggers)
        self._run = RunOf(folder, config or {}, resume_from)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            _TimeLeft(),
            TextColumn("{task.fields[figures]}"),
            console=Console(quiet=quiet),
        )
        self._bar = self._progress.add_task(
            "training", total=total_updates, completed=resume_from, figures="", ends=None
        )
        self._foresee(resume_from)

    def __enter__(self) -> RunLog:
        self._loggers = Loggers(self._logger_names, self._run)
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._loggers.close()

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def log(self, update: int, metrics: Mapping[str, Any]) -> None:
        """Record update number `update` (0-based)."""
        append_record(self._updates, {"update": update, **metrics})
        self._seconds.append(metrics["seconds"]["total"])
        self._loggers.log(update, dict(_scalars(metrics)))
        figures = f"{60 / metrics['seconds']['total']:.1f} updates/min"
        for name, shown in (("em", "EM"), ("acceptance", "accepted")):
            if metrics[name] is not None:  # some algorithms play no samples
                figures += f"  {shown} {metrics[name]:.2f}"
        self._progress.update(self._bar, completed=update + 1, figures=figures)
        self._foresee(update + 1)
        if not self._progress.console.is_terminal:  # where a bar would be seen at the end only
            left = timedelta(seconds=round(self._seconds_left(update + 1)))
            self.say(f"update {update + 1} of {self._total}: {figures}, {left} left")

    @contextmanager
    def playing(self, count: int) -> Generator[Callable[[int], None]]:
        """Shows the play of `count` held-out tasks; yields what is told how many are done."""
        if not self._progress.console.is_terminal:
            self.say(f"playing {count} held-out tasks")
        bar = self._progress.add_task("held-out play", total=count, figures="", ends=None)

        def finished(done: int) -> None:
            self._progress.update(bar, completed=done)

        yield finished
        self._progress.remove_task(bar)

    def evaluation(self, update: int, result: Mapping[str, Any]) -> None:
        """Record a held-out evaluation made after `update` updates."""
        append_record(self._evaluations, {"update": update, **result})
        self._evaluation_seconds.append(result.get("seconds", 0.0))
        self._foresee(update, evaluated=True)
        self._loggers.log(update, {f"held_out/{name}": result[name] for name in ("em", "f1")})
        self._progress.console.print(
            f"held-out EM {result['em']:.3f} [{result['em_low']:.3f}, {result['em_high']:.3f}] "
            f"after {update} updates ({result['count']} tasks)",
            highlight=False,
            markup=False,
        )

    def _seconds_left(self, done: int, *, evaluated: bool = False) -> float:
        """After `done` updates, and the evaluation that is due then if it was `evaluated`."""
        latest = self._seconds[-_PACE:]
        pace = sum(latest) / len(latest) if latest else 0.0
        to_come = range(done + evaluated, self._total + 1)
        due = sum(n == self._total or bool(self._every and n % self._every == 0) for n in to_come)
        last = self._evaluation_seconds[-1] if self._evaluation_seconds else 0.0
        return pace * (self._total - done) + last * due

    def _foresee(self, done: int, *, evaluated: bool = False) -> None:
        if self._seconds:
            ends = self._progress.get_time() + self._seconds_left(done, evaluated=evaluated)
            self._progress.update(self._bar, ends=ends)


class _TimeLeft(ProgressColumn):
    """Until the task's field `ends`, where that is known."""

    def render(self, task: Task) -> Text:
        ends = task.fields.get("ends")
        if ends is None:
            return Text("-:--:--")
        return Text(str(timedelta(seconds=max(0, round(ends - task.get_time())))))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl or eval.jsonl; a torn last line (a killed writer) is left out."""
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a record of a run") from None
    return records


def _keep(path: Path, wanted: Callable[[int], bool]) -> None:
    if path.exists():
        records = [record for record in read_log(path) if wanted(record["update"])]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


_UPDATE = re.compile(rb'\{"update": (\d+),')


def _cut(path: Path, update: int) -> None:
    """Drop what was written from this update on, without reading what may be long into memory."""
    if not path.exists():
        return
    end = 0
    with path.open("r+b") as file:
        for line in file:
            found = _UPDATE.match(line)
            if found is None or int(found[1]) >= update or not line.endswith(b"\n"):
                break
            end += len(line)
        file.truncate(end)


def append_record(path: Path, *records: Mapping[str, Any]) -> None:
    """Add lines of JSON."""
    with path.open("a", encoding="ascii") as file:
        file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)


def _scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
