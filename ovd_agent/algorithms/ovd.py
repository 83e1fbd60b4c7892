"""On-policy Verbal Distillation: verbal rejection sampling, then GRPO on the mixture.

arXiv 2601.21968. With S(y) the trajectory's verbal score,
    p_train(y) = α · π_student(y) · 1[S(y) >= θ] + (1 - α) · π_teacher(y):
a sample that scores below the threshold θ is replaced by a demonstration of the same task, and
α, the accepted share, rises by itself as the student improves.

The paper's reward is the outcome, and the score only filters (`reward="outcome"`). Taken
literally, with a perfect teacher, normalising over the replaced group gives no gradient at all;
hence `demonstration_loss` and `baseline`. The paper's GRPO divides by the group's std and has a KL
term: both are options here, off by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ovd_agent.algorithms.advantages import group_advantages, score_to_go
from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import (
    PolicyTerm,
    imitation_row,
    merged,
    policy_row,
    ratio_one_row,
    shaped_row,
)
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group, reject_and_replace
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError

MIN_RIGHT = 0.25
"""Share of correct samples from which on a run says that θ rejects them."""


@dataclass(frozen=True)
class Advantage:
    """How the advantage of a student's sample comes about."""

    reward: Literal["outcome", "score"] = "outcome"
    """What the policy gradient maximises: the environment's reward (the paper), or S(y)."""
    credit: Literal["trajectory", "step"] = "trajectory"
    """One advantage for all tokens, or one for each turn: its mean score to go."""
    baseline: Literal["student", "mixture", "none"] = "none"
    """Whose mean reward is subtracted: that of all samples of the student, of what is trained on,
    or none. Without one, accepted samples count in full even where all of a group are accepted."""
    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation, as GRPO does."""


@dataclass(frozen=True)
class OVD:
    """Verbal rejection sampling: bad samples are replaced by demonstrations."""

    samples: int = 2
    """Student trajectories a task."""
    threshold: float = 7.0
    """θ: a trajectory that scores below it is rejected. 0 keeps all, the number of score levels
    none."""
    accept_at_most: float = 1.0
    """Below 1, θ rises above `threshold` in each update until no more than this share of its
    samples is accepted, or only those that tie for the best score. A rule that does not depend on
    the scale a teacher uses."""
    aggregate: Literal["mean", "min", "last"] = "mean"
    """S(y) from the step scores."""
    demonstration_loss: Literal["cross_entropy", "ratio_one", "shaped"] = "cross_entropy"
    """How a demonstration teaches; it counts as often as it replaces a sample."""
    unreplaced: Literal["drop", "keep"] = "drop"
    """What happens to a rejected sample without a demonstration: it is left out, or it enters the
    policy gradient, where a baseline makes its advantage negative."""
    advantage: Advantage = field(default_factory=Advantage)
    policy: PolicyTerm = field(default_factory=PolicyTerm)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples={self.samples}: expected at least 1")
        if not self.threshold >= 0:
            raise OptionError(f"threshold={self.threshold}: expected 0 (keep all) or more")
        if not 0 < self.accept_at_most <= 1:
            raise OptionError(f"accept_at_most={self.accept_at_most}: expected a share in (0, 1]")

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, self.policy.references())

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(),)

    def check(self, score_levels: int) -> None:
        if self.threshold > score_levels:
            raise OptionError(
                f"threshold={self.threshold}: expected 0 (keep all) to {score_levels} (reject all),"
                f" since scores run from 0 to {score_levels - 1}"
            )

    def score(self, trajectory: Trajectory) -> float | None:
        """S(y), or None if the teacher gave no score for any step."""
        scores = trajectory.episode.expected_scores
        if not scores:
            return None
        match self.aggregate:
            case "mean":
                return sum(scores) / len(scores)
            case "min":
                return min(scores)
            case "last":
                return scores[-1]

    def adapted(self, samples: Sequence[Trajectory], context: Context) -> OVD:
        """With the θ of this update."""
        scores = [score for each in samples if (score := self.score(each)) is not None]
        threshold = self.threshold
        if self.accept_at_most < 1 and scores:
            most = self.accept_at_most * len(scores)
            strict = [bar for bar in set(scores) if sum(score >= bar for score in scores) <= most]
            threshold = max(threshold, min(strict, default=max(scores)))
        context.log("threshold", threshold)
        return replace(self, threshold=threshold)

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        """One is enough for all that are rejected: it counts as often as it replaces."""
        scores = [self.score(sample) for sample in samples]
        return int(any(score is not None and score < self.threshold for score in scores))

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        chosen, levels = self.advantage, context.score_levels
        mixed = reject_and_replace(group, [self.score(s) for s in group.samples], self.threshold)
        scored = [s for s in group.samples if self.score(s) is not None]
        played = mixed.kept + (mixed.unreplaced if self.unreplaced == "keep" else [])
        mixture = [*played, *mixed.replacements]
        judged = {"student": scored, "mixture": mixture, "none": []}[chosen.baseline]
        baseline = [self._reward(each, levels) for each in judged]
        advantages = group_advantages(
            [self._reward(each, levels) for each in mixture],
            baseline,
            divide_by_std=chosen.divide_by_std,
        )
        rows = [
            policy_row(
                sample,
                self._turn_advantages(sample, advantage, baseline, levels),
                weight=self.policy.weight,
                kl=self.policy.kl,
            )
            for sample, advantage in zip(played, advantages, strict=False)
        ]
        for row in rows[len(mixed.kept) :]:
            row.kind = "rejected"
        taught = zip(mixed.replacements, advantages[len(played) :], strict=True)
        return rows + merged([self._taught(shown, advantage) for shown, advantage in taught])

    def advice(self, metrics: Mapping[str, Any], score_levels: int) -> str | None:
        """Where θ turns most correct samples down, though it was not meant to reject all."""
        theta, given = metrics["threshold"], metrics["score_mean"]
        right, accepted = metrics["em"], metrics["acceptance"]
        if theta >= score_levels or given is None or right < MIN_RIGHT or accepted >= right / 2:
            return None
        return (
            f"{right:.0%} of the samples are right, but {accepted:.0%} were accepted: θ={theta:.3g}"
            f" is more than this teacher gives ({given:.1f} a step on average); set"
            " algorithm.threshold by what `ovd calibrate` prints, or algorithm.accept_at_most"
        )

    def _reward(self, trajectory: Trajectory, score_levels: int) -> float:
        if self.advantage.reward == "outcome":
            return trajectory.reward
        return (self.score(trajectory) or 0.0) / (score_levels - 1)

    def _turn_advantages(
        self, sample: Trajectory, advantage: float, baseline: Sequence[float], score_levels: int
    ) -> list[float]:
        if self.advantage.credit == "trajectory":
            return [advantage] * len(sample.episode.turns)
        to_go = score_to_go(sample, score_levels)
        return group_advantages(to_go, baseline, divide_by_std=self.advantage.divide_by_std)

    def _taught(self, shown: Trajectory, advantage: float) -> TrainingRow:
        match self.demonstration_loss:
            case "cross_entropy":
                return imitation_row(shown)
            case "ratio_one":
                return ratio_one_row(shown, advantage)
            case "shaped":
                return shaped_row(shown)
