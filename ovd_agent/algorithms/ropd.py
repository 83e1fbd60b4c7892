"""ROPD: rubric-based on-policy distillation (arXiv 2605.07396).

Whoever demonstrates compares its own episodes of a task with the student's and writes weighted
criteria, which all samples of the task share; then it judges each sample by them without knowing
whose it is. The reward is the share of the points that a sample earns, the advantage that reward
less the group's mean, not divided by a deviation.

`credit="step"` is ours: a criterion's points count for the step that fulfils it and the steps
before, so that what comes after earns nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import PolicyTerm, policy_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class ROPD:
    """Policy gradient on ratings by criteria that are written for each task."""

    samples: int = 8
    """Student trajectories per task: a group."""
    teacher_episodes: int = 4
    """The teacher's own episodes of a task that the criteria are written in view of."""
    credit: Literal["trajectory", "step"] = "trajectory"
    """One advantage for all tokens, or one for each turn: the points from there on."""
    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation (with n-1), as GRPO does."""
    policy: PolicyTerm = field(default_factory=PolicyTerm)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise OptionError(f"samples={self.samples}: a group needs at least 2 for a baseline")
        if self.teacher_episodes < 0:
            raise OptionError(f"teacher_episodes={self.teacher_episodes}: expected at least 0")

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, self.policy.references(), verdicts=True)

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(),)

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return self.teacher_episodes

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        """None where nobody rated the group; a sample that could not be judged is left out."""
        if group.verdict is None:
            return []
        gains = [
            (sample, group.verdict.gains(place, len(sample.episode.turns)))
            for place, sample in enumerate(group.played)
        ]
        rated = [(sample, self._returns(each)) for sample, each in gains if each]
        advantages = iter(
            group_advantages(
                [value for _, returns in rated for value in returns],
                divide_by_std=self.divide_by_std,
            )
        )
        weight, kl = self.policy.weight, self.policy.kl
        rows: list[TrainingRow] = []
        for sample, returns in rated:
            mine = [next(advantages) for _ in returns]
            if self.credit == "trajectory":
                mine *= len(sample.episode.turns)
            rows.append(policy_row(sample, mine, weight=weight, kl=kl))
        return rows

    def _returns(self, gains: Sequence[float]) -> list[float]:
        """The whole rating, or with step credit for each turn what is earned from there on."""
        if self.credit == "trajectory":
            return [sum(gains)]
        return np.cumsum(gains[::-1])[::-1].tolist()
