"""SFT: cross-entropy on the teacher's demonstrations; the student plays nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.base import imitation_row
from ovd_agent.group import Group
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.trajectory import Trajectory


@dataclass(frozen=True)
class SFT:
    """Imitation of one demonstration a task."""

    samples: int = 0

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return 1

    def rows(self, group: Group) -> list[TrainingRow]:
        return [imitation_row(demonstration) for demonstration in group.demonstrations]
