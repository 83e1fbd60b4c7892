"""On-policy Verbal Distillation: verbal rejection sampling, then GRPO on the mixture.

arXiv 2601.21968. With S(y) the trajectory's verbal score,
    p_train(y) = α · π_student(y) · 1[S(y) >= θ] + (1 - α) · π_teacher(y):
a sample that scores below the threshold θ is replaced by a demonstration of the same task, and
α, the accepted share, rises by itself as the student improves.

The paper's reward is the outcome, and the score only filters (`reward="outcome"`). Taken
literally, with a perfect teacher, normalising over the replaced group gives no gradient at all;
hence `enter` and `statistics`. The paper's GRPO divides by the group's std and has a KL term: both
are options here, off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ovd_agent.algorithms.advantages import group_advantages, score_to_go
from ovd_agent.algorithms.base import (
    imitation_row,
    merged,
    policy_row,
    ratio_one_row,
    shaped_row,
)
from ovd_agent.group import Group, reject_and_replace
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OVD:
    """Verbal rejection sampling."""

    samples: int = 4
    """Student trajectories a task."""
    threshold: float = 7.0
    """θ: a trajectory that scores below it is rejected. 0 keeps all, `score_levels` none."""
    accept_at_most: float = 1.0
    """Below 1, θ rises above `threshold` in each update until no more than this share of its
    samples is accepted, or only those that tie for the best score. A rule that does not depend on
    the scale a teacher uses."""
    score_levels: int = 10
    """v: scores run from 0 to v - 1."""
    aggregate: Literal["mean", "min", "last"] = "mean"
    """S(y) from the step scores."""
    reward: Literal["outcome", "score"] = "outcome"
    """What the policy gradient maximises: the environment's reward (the paper), or S(y)."""
    credit: Literal["trajectory", "step"] = "trajectory"
    """One advantage for all tokens, or one for each turn: its mean score to go."""
    enter: Literal["cross_entropy", "ratio_one", "shaped"] = "cross_entropy"
    """How a demonstration teaches, weighted by how many samples it replaces."""
    unreplaced: Literal["drop", "keep"] = "drop"
    """What becomes of a rejected sample whose task the teacher has no demonstration of: it is left
    out, or it enters the policy gradient, where a baseline makes its advantage negative."""
    statistics: Literal["student", "mixture", "none"] = "student"
    """Whose rewards are the baseline: all samples of the student, what is trained on, or nobody's:
    then an accepted sample counts in full even where all of its group were accepted."""
    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation, as GRPO does."""
    policy_weight: float = 1.0
    """Weight of the policy gradient beside the demonstrations."""
    kl: float = 0.0
    """Weight of the KL to the reference model."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples={self.samples}: expected at least 1")
        if self.score_levels < 2:
            raise OptionError(f"score_levels={self.score_levels}: expected at least 2")
        if not 0 <= self.threshold <= self.score_levels:
            raise OptionError(
                f"threshold={self.threshold}: expected 0 (keep all) to {self.score_levels} "
                f"(reject all), since scores run from 0 to {self.score_levels - 1}"
            )
        if not 0 < self.accept_at_most <= 1:
            raise OptionError(f"accept_at_most={self.accept_at_most}: expected a share in (0, 1]")
        if self.policy_weight < 0 or self.kl < 0:
            raise OptionError("policy_weight and kl: expected 0 or more")

    def score(self, trajectory: Trajectory) -> float | None:
        """S(y), or None if the teacher gave no score for any step."""
        scores = [
            turn.score.expected
            for turn in trajectory.episode.turns
            if turn.score is not None and turn.score.expected is not None
        ]
        if not scores:
            return None
        match self.aggregate:
            case "mean":
                return sum(scores) / len(scores)
            case "min":
                return min(scores)
            case "last":
                return scores[-1]

    def adapted(self, samples: Sequence[Trajectory]) -> OVD:
        """With the θ of this update."""
        scores = [score for each in samples if (score := self.score(each)) is not None]
        if self.accept_at_most == 1 or not scores:
            return self
        most = self.accept_at_most * len(scores)
        strict = [bar for bar in set(scores) if sum(score >= bar for score in scores) <= most]
        return replace(self, threshold=max(self.threshold, min(strict, default=max(scores))))

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        """One is enough for all that are rejected: it counts as often as it replaces."""
        scores = [self.score(sample) for sample in samples]
        return int(any(score is not None and score < self.threshold for score in scores))

    def rows(self, group: Group) -> list[TrainingRow]:
        mixed = reject_and_replace(group, [self.score(s) for s in group.samples], self.threshold)
        scored = [s for s in group.samples if self.score(s) is not None]
        played = mixed.kept + (mixed.unreplaced if self.unreplaced == "keep" else [])
        mixture = [*played, *mixed.replacements]
        judged = {"student": scored, "mixture": mixture, "none": []}[self.statistics]
        baseline = [self._reward(each) for each in judged]
        advantages = group_advantages(
            [self._reward(each) for each in mixture], baseline, divide_by_std=self.divide_by_std
        )
        rows = [
            policy_row(
                sample,
                self._turn_advantages(sample, advantage, baseline),
                weight=self.policy_weight,
                kl=self.kl,
            )
            for sample, advantage in zip(played, advantages, strict=False)
        ]
        for row in rows[len(mixed.kept) :]:
            row.kind = "rejected"
        taught = zip(mixed.replacements, advantages[len(played) :], strict=True)
        return rows + merged([self._taught(shown, advantage) for shown, advantage in taught])

    def _reward(self, trajectory: Trajectory) -> float:
        if self.reward == "outcome":
            return trajectory.reward
        return (self.score(trajectory) or 0.0) / (self.score_levels - 1)

    def _turn_advantages(
        self, sample: Trajectory, advantage: float, baseline: Sequence[float]
    ) -> list[float]:
        if self.credit == "trajectory":
            return [advantage] * len(sample.episode.turns)
        to_go = score_to_go(sample, self.score_levels)
        return group_advantages(to_go, baseline, divide_by_std=self.divide_by_std)

    def _taught(self, shown: Trajectory, advantage: float) -> TrainingRow:
        match self.enter:
            case "cross_entropy":
                return imitation_row(shown)
            case "ratio_one":
                return ratio_one_row(shown, advantage)
            case "shaped":
                return shaped_row(shown)
