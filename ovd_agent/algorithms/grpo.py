"""GRPO: group-normalised advantages, clipped policy gradient (arXiv 2402.03300).

The paper divides the loss of each sample by its length: `learner.loss_per = "row_means"`. The
default, all tokens of an optimiser step, is DAPO's (arXiv 2503.14476). Its relatives, each with its
own defaults of these options, are `dr_grpo`, `rloo`, `dapo`, `gspo`, `cispo` and `reinforce_pp`.
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
    """Student trajectories per task: a group."""
    divide_by_std: bool = True
    """Divide advantages by the group's standard deviation (with n-1)."""
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

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """Of the samples of a group."""
        return group_advantages(rewards, divide_by_std=self.divide_by_std)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        advantages = self.advantages([sample.reward for sample in group.played])
        weight, kl = self.policy.weight, self.policy.kl
        return [
            policy_row(sample, [advantage] * len(sample.episode.turns), weight=weight, kl=kl)
            for sample, advantage in zip(group.played, advantages, strict=True)
        ]
