"""SFT: cross-entropy on the teacher's demonstrations; the student plays nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import imitation_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory


@dataclass(frozen=True)
class SFT:
    """Imitation of one demonstration a task."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return 1

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        return [imitation_row(demonstration) for demonstration in group.demonstrations]
