"""What an algorithm is, and the rows that algorithms share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ovd_agent.group import Group
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.trajectory import Trajectory


class Algorithm(Protocol):
    """`samples` student trajectories are played per task; then `demonstrations` says how many
    of the teacher's are wanted; then `rows` gets both."""

    @property
    def samples(self) -> int: ...

    def demonstrations(self, samples: Sequence[Trajectory]) -> int: ...

    def rows(self, group: Group) -> list[TrainingRow]: ...


@runtime_checkable
class Adaptive(Protocol):
    """An algorithm that looks at all samples of an update before it decides about any."""

    def adapted(self, samples: Sequence[Trajectory]) -> Algorithm:
        """The algorithm for this update alone."""
        ...


def policy_row(
    trajectory: Trajectory, advantages: Sequence[float], *, weight: float = 1.0, kl: float = 0.0
) -> TrainingRow:
    """A student's row: the tokens of its k-th turn carry the k-th advantage."""
    row = _row(trajectory)
    row.behaviour = np.asarray(trajectory.logprobs, dtype=np.float32)
    for segment in trajectory.written:
        span = slice(segment.start, segment.end)
        row.pg[span], row.kl[span] = weight, kl
        row.advantage[span] = advantages[segment.turn]
    return row


def imitation_row(trajectory: Trajectory, weight: float = 1.0) -> TrainingRow:
    """A demonstration's row: cross-entropy on every token the teacher wrote."""
    row = _row(trajectory)
    for segment in trajectory.written:
        row.ce[segment.start : segment.end] = weight
    return row


def ratio_one_row(trajectory: Trajectory, advantage: float, weight: float = 1.0) -> TrainingRow:
    """A demonstration under the policy gradient: nobody sampled it from the student, so its
    ratio is 1 and its gradient A·∇log π."""
    row = _row(trajectory)
    for segment in trajectory.written:
        row.pg[segment.start : segment.end] = weight
        row.advantage[segment.start : segment.end] = advantage
    return row


def shaped_row(trajectory: Trajectory, weight: float = 1.0) -> TrainingRow:
    """A demonstration with the objective p / (p + 0.1) on every token: tokens that the student
    finds unlikely pull hardest, hopeless ones hardly (LUFFY, arXiv 2504.14945)."""
    row = _row(trajectory)
    for segment in trajectory.written:
        row.shaped[segment.start : segment.end] = weight
    return row


def merged(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Equal demonstrations become one row that counts as often: computed once."""
    found: dict[tuple[int, ...], TrainingRow] = {}
    for row in rows:
        twin = found.setdefault(tuple(row.ids), row)
        if twin is not row:
            twin.copies += row.copies
    return list(found.values())


def _row(trajectory: Trajectory) -> TrainingRow:
    kind = "demonstration" if trajectory.is_demonstration else "student"
    row = TrainingRow.blank(trajectory.ids, kind)
    row.group, row.version = trajectory.episode.task.id, trajectory.version
    return row
