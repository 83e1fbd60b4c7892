"""Which tasks each update plays: every task once an epoch, in an order that the seed decides."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ovd_envs.episode import Task


class Schedule:
    """The tasks of an update, by its number alone, so that a resumed run goes on with the same.

    Each epoch is a new random order. An update at the border of two epochs takes from both, and no
    task twice.
    """

    def __init__(self, tasks: Sequence[Task], per_update: int, seed: int) -> None:
        self._tasks, self._seed = tasks, seed
        self.count = min(per_update, len(tasks))
        """Tasks of an update."""
        self._order: list[int] = []
        self._epochs = 0

    def tasks(self, update: int) -> list[Task]:
        """The tasks of update number `update`, counted from 0."""
        start, end = update * self.count, (update + 1) * self.count
        while len(self._order) < end:
            self._append_epoch()
        return [self._tasks[place] for place in self._order[start:end]]

    def _append_epoch(self) -> None:
        order = list(range(len(self._tasks)))
        random.Random(f"tasks {self._seed} {self._epochs}").shuffle(order)
        self._epochs += 1
        begun = len(self._order) % self.count
        if begun:
            taken = set(self._order[-begun:])
            new = [place for place in order if place not in taken]
            head = new[: self.count - begun]
            order = head + [place for place in order if place not in set(head)]
        self._order += order
