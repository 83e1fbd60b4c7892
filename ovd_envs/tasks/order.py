"""In which order tasks are drawn, and how one is chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from ovd_envs.episode import Task
from ovd_envs.errors import TaskError


class TaskOrder:
    """A random order without replacement, epoch after epoch, for any number of tasks.

    The shuffle (Fisher and Yates) is done as far as it is needed, so that 256 orders over a
    million tasks cost nothing to make.
    """

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        self._count = count
        self._generator = generator
        self._swapped: dict[int, int] = {}
        self._drawn = 0

    def draw(self) -> int:
        """The place of the next task."""
        if self._drawn == self._count:
            self._swapped, self._drawn = {}, 0
        here = self._drawn
        there = here + int(self._generator.random() * (self._count - here))
        self._drawn += 1
        chosen = self._swapped.get(there, there)
        self._swapped[there] = self._swapped.pop(here, here)
        return chosen


def choose(tasks: Sequence[Task], choice: Any, option: str) -> Task:
    """A Task as it is, or the one of that id; TaskError names the nearest ids."""
    if isinstance(choice, Task):
        return choice
    for task in tasks:
        if task.id == choice:
            return task
    near = get_close_matches(str(choice), [task.id for task in tasks[:100_000]], n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "expected a Task or the id of one"
    raise TaskError(f"{option}={choice!r}: {hint}")


class TaskDrawer:
    """The task and the seed of the next episode, from one generator."""

    def __init__(self, tasks: Sequence[Task], generator: np.random.Generator) -> None:
        self._tasks = tasks
        self._generator = generator
        self._order = TaskOrder(len(tasks), generator)

    def draw(self, choice: Any, option: str) -> tuple[Task, int]:
        """The next task, or the chosen one, which does not use up the order's."""
        if choice is None:
            task = self._tasks[self._order.draw()]
        else:
            task = choose(self._tasks, choice, option)
        return task, int(self._generator.random() * 2**31)
