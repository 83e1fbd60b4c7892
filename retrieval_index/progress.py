"""A progress bar with rate and time left."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


def note(text: str, shown: bool | None) -> None:
    """A line beside the bars, where they are shown."""
    if sys.stderr.isatty() if shown is None else shown:
        print(text, file=sys.stderr)


@contextmanager
def progress_bar(
    what: str, total: int | None, shown: bool | None, done: int = 0
) -> Generator[Callable[[int], None]]:
    """Yields `advance(n)`. `shown=None` shows the bar when stderr is a terminal; `done` of the
    total were made before."""
    if shown is None:
        shown = sys.stderr.isatty()
    if not shown or importlib.util.find_spec("rich") is None:
        yield lambda n: None
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
