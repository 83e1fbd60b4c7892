"""GRPO: group-normalised advantages, clipped policy gradient (arXiv 2402.03300).

Without `divide_by_std` it is Dr.GRPO (arXiv 2503.20783), up to the denominator of the loss. What
is not done: resampling of groups with equal rewards (DAPO), a length-normalised ratio (GSPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import PolicyTerm, policy_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class GRPO:
    """Group-relative policy optimisation on the environment's reward."""

    samples: int = 4
    """Student trajectories a task: a group."""
    divide_by_std: bool = True
    """Divide advantages by the group's standard deviation."""
    policy: PolicyTerm = field(default_factory=PolicyTerm)

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise OptionError(f"samples={self.samples}: a group needs at least 2 for a baseline")

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, self.policy.references())

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(),)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        advantages = group_advantages(
            [sample.reward for sample in group.samples], divide_by_std=self.divide_by_std
        )
        weight, kl = self.policy.weight, self.policy.kl
        return [
            policy_row(sample, [advantage] * len(sample.episode.turns), weight=weight, kl=kl)
            for sample, advantage in zip(group.samples, advantages, strict=True)
        ]
