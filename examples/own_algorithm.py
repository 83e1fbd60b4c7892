"""An algorithm of your own: RLOO, REINFORCE with a leave-one-out baseline (arXiv 2402.14740).

    cd examples
    ovd train --algorithm own_algorithm:RLOO --algorithm.samples 4 --out ../runs/rloo

A sample's advantage is its reward minus the mean reward of the other samples of its task. The
learner is not touched: an algorithm says what each token contributes, in rows. (`--algorithm rloo`
is the same, built in.)
"""

from __future__ import annotations

from dataclasses import dataclass

from ovd_agent import Context, Group, Needs, TrainingRow, policy_row
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class RLOO:
    """REINFORCE with a leave-one-out baseline."""

    samples: int = 4
    """Student trajectories a task."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise OptionError(f"samples={self.samples}: expected at least 2, to leave one out")

    @property
    def needs(self) -> Needs:
        return Needs(samples=self.samples)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        rewards = [sample.reward for sample in group.samples]
        advantages = [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
        context.log("advantage_max", max(advantages))  # of the last group; see log.jsonl
        return [
            policy_row(sample, [advantage] * len(sample.episode.turns))
            for sample, advantage in zip(group.samples, advantages, strict=True)
        ]
