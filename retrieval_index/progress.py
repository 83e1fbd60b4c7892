"""How far a long work is, its rate and the time left: a bar in a terminal, lines in a log."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta

SECONDS = 30.0
"""Between two lines of a log."""


def note(text: str, shown: bool | None) -> None:
    """A line beside the bars, where they are shown."""
    if sys.stderr.isatty() if shown is None else shown:
        print(text, file=sys.stderr)


@contextmanager
def progress_bar(
    what: str, total: int | None, shown: bool | None, done: int = 0
) -> Generator[Callable[[int], None]]:
    """Yields `advance(n)`. `shown=None` shows a bar when stderr is a terminal, and else a line
    every half a minute; `done` of the total were made before."""
    if shown is False:
        yield lambda n: None
        return
    if importlib.util.find_spec("rich") is None or not (shown or sys.stderr.isatty()):
        yield _lines(what, total, done)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f}/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    # Over two minutes, so that a slow encoder's rate does not come and go between its batches.
    console = Console(stderr=True)
    with Progress(*columns, *times, console=console, speed_estimate_period=120) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda n: bar.advance(task, n)


def _lines(what: str, total: int | None, done: int) -> Callable[[int], None]:
    """An `advance(n)` that writes to stderr now and then."""
    began = told = time.monotonic()
    before = done

    def advance(n: int) -> None:
        nonlocal done, told
        done += n
        now = time.monotonic()
        if now - told < SECONDS:
            return
        told = now
        rate = (done - before) / (now - began)
        line = f"{what}: {done:,}, {rate:,.1f}/s"
        if total is not None and rate:
            left = timedelta(seconds=round((total - done) / rate))
            line = f"{what}: {done:,} of {total:,}, {rate:,.1f}/s, {left} left"
        print(line, file=sys.stderr, flush=True)

    return advance
