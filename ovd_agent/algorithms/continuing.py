"""What the algorithms share that keep the good beginning of a sample and let the teacher go on.

The second version of arXiv 2601.21968 (as reported): a sample y is cut before a turn t; what the
student wrote before t is kept, and the teacher's end is taught by cross-entropy. A cut before the
first turn is a whole demonstration, the first version.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np

from ovd_agent.algorithms.base import Context, Judged, Needs
from ovd_agent.algorithms.rows import PolicyTerm, imitation_row, merged, policy_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class Continuing:
    """Options and rows; subclasses say where samples are cut."""

    samples: int = 2
    """Student trajectories per task."""
    prefix: Literal["leave", "own"] = "leave"
    """What a kept beginning learns: nothing, or the policy gradient of what the student itself
    earned with it: its own reward less the mean of its group. What the teacher earned after it says
    that it can be repaired, not that it is good."""
    replace_first: float = 0.0
    """In this share of the updates, the first ones, whole demonstrations replace what is cut."""
    policy: PolicyTerm = field(default_factory=PolicyTerm)
    whole: bool = field(default=False, init=False)
    """Whether this update replaces."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples={self.samples}: expected at least 1")
        if not 0 <= self.replace_first <= 1:
            raise OptionError(f"replace_first={self.replace_first}: expected a share in [0, 1]")

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, self.policy.references())

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(),)

    def adapted(self, samples: Sequence[Trajectory], context: Context) -> Self:
        """For this update: whole demonstrations or continuations."""
        return self._switched(context)

    def _switched(self, context: Context) -> Self:
        chosen = copy.copy(self)
        # A frozen dataclass's own copy: whether it replaces is no option.
        object.__setattr__(chosen, "whole", context.update < self.replace_first * context.updates)
        return chosen

    def first_bad_turns(self, samples: Sequence[Trajectory]) -> list[int | None]:
        """For each sample of a group the turn before which it is cut; None keeps all of it."""
        raise NotImplementedError

    def cuts(self, group: Group) -> list[tuple[Trajectory, int]]:
        """The samples to be continued, and before which turn."""
        found = zip(group.played, self.first_bad_turns(group.played), strict=True)
        return [(each, 0 if self.whole else turn) for each, turn in found if turn is not None]

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        """Policy gradient on what is kept whole, cross-entropy on what the teacher wrote."""
        cut = {id(sample) for sample, _ in self.cuts(group)}
        kept = [sample for sample in group.played if id(sample) not in cut]
        ends = {id(each.sample): each.trajectory for each in group.continuations}
        for sample in group.played:
            if (score := mean_score(sample)) is not None:
                accepted = id(sample) not in cut
                context.judged.append(Judged(sample, score, accepted, ends.get(id(sample))))
        weight, kl = self.policy.weight, self.policy.kl
        rows = [
            policy_row(each, [each.reward] * len(each.episode.turns), weight=weight, kl=kl)
            for each in kept
        ]
        mean = float(np.mean([sample.reward for sample in group.played])) if group.played else 0.0
        for each in group.continuations:
            row = imitation_row(each.trajectory)
            if self.prefix == "own" and each.turn:
                advantages = [each.sample.reward - mean] * each.turn
                own = policy_row(each.trajectory, advantages, weight=weight, kl=kl)
                row.streams |= own.streams
            rows.append(row)
        return merged(rows) if self.prefix == "leave" else rows


def step_scores(sample: Trajectory) -> list[float | None]:
    """The expected score of each step, None where it has none."""
    return [turn.score.expected if turn.score else None for turn in sample.episode.turns]


def mean_score(sample: Trajectory) -> float | None:
    """S(y) as a mean over steps, 0 without an answer; None if there is no score."""
    scores = sample.episode.expected_scores
    if not scores or sample.episode.end_reason == "infrastructure":
        return None
    return sum(scores) / len(scores) if sample.episode.answer is not None else 0.0
