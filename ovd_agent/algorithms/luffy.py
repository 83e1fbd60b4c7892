"""LUFFY: GRPO over the student's samples and one demonstration (arXiv 2504.14945).

Advantages are rewards less the mean of all of them, the demonstration's among them, not divided by
a deviation. The student's tokens have the policy gradient without a clip; the demonstration's have
the shaped objective p / (p + gamma), weighted by its advantage: where the whole group is right it
teaches nothing more. The teacher's text is taken as if it had been certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import PolicyTerm, policy_row, shaped_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.shaped import Shaped
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError

UNCLIPPED = 1e9


@dataclass(frozen=True)
class LUFFY:
    """Policy gradient on a group that holds a demonstration."""

    samples: int = 7
    """Student trajectories per task, beside its demonstration."""
    gamma: float = 0.1
    """Of the shaping p / (p + gamma)."""
    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation (with n-1), as GRPO does."""
    policy: PolicyTerm = field(
        default_factory=lambda: PolicyTerm(clip_low=1.0, clip_high=UNCLIPPED)
    )

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples={self.samples}: expected at least 1")
        Shaped(self.gamma)

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, self.policy.references(), demonstration_rewards=True)

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(), Shaped(self.gamma))

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return 1

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        every = [*group.played, *group.demonstrations]
        advantages = group_advantages(
            [each.reward for each in every], divide_by_std=self.divide_by_std
        )
        own = advantages[: len(group.played)]
        weight, kl = self.policy.weight, self.policy.kl
        rows = [
            policy_row(sample, [advantage] * len(sample.episode.turns), weight=weight, kl=kl)
            for sample, advantage in zip(group.played, own, strict=True)
        ]
        shown = zip(group.demonstrations, advantages[len(group.played) :], strict=True)
        # A demonstration below the mean is wrong itself: it is not unlearnt, but left out.
        return rows + [shaped_row(each, advantage) for each, advantage in shown if advantage > 0]
