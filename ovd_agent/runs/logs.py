"""What a run leaves behind while it runs: log.jsonl, eval.jsonl, TensorBoard, a progress bar.

A run that was killed may have left a torn last line, and updates that its checkpoint does not
know of. `RunLog` drops both when the run is resumed, so that every update appears exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from retrieval_index.files import write_atomically


class RunLog:
    """A context manager around the updates of a run; `quiet` shows no progress."""

    def __init__(
        self, folder: Path, total_updates: int, *, quiet: bool = False, resume_from: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._updates, self._evaluations = folder / "log.jsonl", folder / "eval.jsonl"
        _keep(self._updates, lambda update: update < resume_from)
        # An evaluation at update n was made with the weights of n updates; 0 is the beginning.
        _keep(self._evaluations, lambda update: update <= resume_from)
        self.evaluated = {record["update"] for record in read_log(self._evaluations)}
        self._tensorboard_folder = folder / "tensorboard"
        self._resume_from = resume_from
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(quiet=quiet),
        )
        self._bar = self._progress.add_task(
            "training", total=total_updates, completed=resume_from, figures=""
        )

    def __enter__(self) -> RunLog:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run wrote past its last checkpoint.
        self._tensorboard = SummaryWriter(
            str(self._tensorboard_folder), purge_step=self._resume_from or None
        )
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        self._tensorboard.close()

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def log(self, update: int, metrics: Mapping[str, Any]) -> None:
        """Record update number `update` (0-based)."""
        _append(self._updates, {"update": update, **metrics})
        for name, value in _scalars(metrics):
            self._tensorboard.add_scalar(name, value, update)
        figures = f"{60 / metrics['seconds']['total']:.1f} updates/min"
        for name, shown in (("em", "EM"), ("acceptance", "accepted")):
            if metrics[name] is not None:  # some algorithms play no samples
                figures += f"  {shown} {metrics[name]:.2f}"
        self._progress.update(self._bar, completed=update + 1, figures=figures)
        if not self._progress.console.is_terminal:  # where a bar would be seen at the end only
            bar = self._progress.tasks[self._bar]
            left = (
                "" if bar.time_remaining is None else f", {timedelta(0, bar.time_remaining)} left"
            )
            self.say(f"update {update + 1} of {bar.total:.0f}: {figures}{left}")

    def evaluation(self, update: int, result: Mapping[str, Any]) -> None:
        """Record a held-out evaluation made after `update` updates."""
        _append(self._evaluations, {"update": update, **result})
        for name in ("em", "f1"):
            self._tensorboard.add_scalar(f"held_out/{name}", result[name], update)
        self._progress.console.print(
            f"held-out EM {result['em']:.3f} [{result['em_low']:.3f}, {result['em_high']:.3f}] "
            f"after {update} updates ({result['count']} tasks)",
            highlight=False,
            markup=False,
        )


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


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def _scalars(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
