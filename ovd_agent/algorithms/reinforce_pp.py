"""REINFORCE++: advantages normalised over all samples of an update (arXiv 2501.03262).

A sample's reward less the mean of its group (`baseline="group"`, the paper's form for several
samples a task) or of the update (`"batch"`), divided by the standard deviation over the update. A
task that is nearly always solved then counts no more than it should, which a division by the
group's own deviation would make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovd_agent.algorithms.advantages import EPSILON, group_advantages
from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.rollouts.trajectory import Trajectory


@dataclass(frozen=True)
class ReinforcePP(GRPO):
    """REINFORCE with a normalisation over the update."""

    baseline: Literal["group", "batch"] = "group"
    """Whose mean reward is subtracted: that of the task's samples, or of all in the update."""
    divide_by_std: bool = True
    """Divide by the standard deviation over the update."""

    def adapted(self, samples: Sequence[Trajectory], context: Context) -> ReinforcePP:
        """With mean and deviation of this update."""
        rewards: dict[str, list[float]] = {}
        for sample in samples:
            if sample.episode.end_reason != "infrastructure":
                rewards.setdefault(sample.episode.task.id, []).append(sample.reward)
        every = [reward for each in rewards.values() for reward in each]
        mean = float(np.mean(every)) if every else 0.0
        centred = [value for each in rewards.values() for value in self._centred(each, mean)]
        deviation = float(np.std(centred, ddof=1)) if len(centred) > 1 else 0.0
        return _OfUpdate(**vars(self), mean=mean, deviation=deviation)

    def _centred(self, rewards: Sequence[float], mean: float) -> list[float]:
        baseline = rewards if self.baseline == "group" else [mean]
        return group_advantages(rewards, baseline, divide_by_std=False)


@dataclass(frozen=True)
class _OfUpdate(ReinforcePP):
    """One update's."""

    mean: float = 0.0
    deviation: float = 0.0

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        scale = self.deviation + EPSILON if self.divide_by_std else 1.0
        return [value / scale for value in self._centred(rewards, self.mean)]
