"""All that was collected for one task, and verbal rejection sampling on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Task
from ovd_envs.errors import OVDError
from ovd_envs.teachers.base import GroupVerdict


class DemonstrationError(OVDError, ValueError):
    """A demonstration is of another task."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A student's sample up to `turn`, and the teacher's end of it, in one trajectory."""

    sample: Trajectory
    turn: int
    trajectory: Trajectory


@dataclass(slots=True)
class Group:
    """The student's samples of one task, then the teacher's demonstrations that were asked for;
    none where the teacher itself fails. And the samples that the teacher continued, or rated."""

    task: Task
    samples: list[Trajectory]
    demonstrations: list[Trajectory] = field(default_factory=list[Trajectory])
    continuations: list[Continuation] = field(default_factory=list[Continuation])
    verdict: GroupVerdict | None = None
    """Of the samples that were played, in their order; None where nobody rated them."""

    @property
    def played(self) -> list[Trajectory]:
        """The samples that no failed service ended."""
        return [each for each in self.samples if each.episode.end_reason != "infrastructure"]


@dataclass(frozen=True, slots=True)
class MixedGroup:
    """What verbal rejection sampling makes of a group: `kept` are student samples, and each of
    `replacements` stands where one was rejected; `unreplaced` were rejected where there is no
    demonstration."""

    kept: list[Trajectory]
    replacements: list[Trajectory]
    unreplaced: list[Trajectory]


def reject_and_replace(
    group: Group, scores: Sequence[float | None], threshold: float
) -> MixedGroup:
    """Replace each student trajectory that scores below the threshold by a demonstration.

    The training mixture of On-policy Verbal Distillation (arXiv 2601.21968). Kept trajectories
    stay on-policy; replacements have no behaviour log-probabilities and never enter an importance
    ratio. A sample whose score is None leaves the group: nothing is known about it.

    Args:
        group: its demonstrations are used in order, and again from the first when too few.
        scores: S(y) of each sample that was played, on the scale of the verbal scores.
        threshold: θ on that scale. 0 keeps all; any value above v-1 rejects all.

    Raises:
        DemonstrationError: a demonstration is of another task.
    """
    judged = [
        (sample, score)
        for sample, score in zip(group.played, scores, strict=True)
        if score is not None
    ]
    kept = [sample for sample, score in judged if score >= threshold]
    rejected = [sample for sample, score in judged if score < threshold]
    shown = group.demonstrations
    for demonstration in shown:
        if demonstration.episode.task.id != group.task.id:
            raise DemonstrationError(
                f"a demonstration of task {demonstration.episode.task.id!r} cannot replace a"
                f" sample of task {group.task.id!r}"
            )
    if not shown:
        return MixedGroup(kept, [], rejected)
    return MixedGroup(kept, [shown[index % len(shown)] for index in range(len(rejected))], [])
