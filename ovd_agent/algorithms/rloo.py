"""RLOO: REINFORCE with a leave-one-out baseline (arXiv 2402.14740, equation 7).

The mean reward of the other samples of a task does not depend on the sample, so that the estimate
is unbiased. It is GRPO's reward less the mean, times n / (n - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.algorithms.grpo import GRPO


@dataclass(frozen=True)
class RLOO(GRPO):
    """A sample's reward less the mean reward of the other samples of its task."""

    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation (with n-1), as GRPO does."""

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        found = group_advantages(rewards, divide_by_std=self.divide_by_std)
        count = len(rewards)
        return [advantage * count / (count - 1) for advantage in found] if count > 1 else found
