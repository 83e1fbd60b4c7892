"""On-policy Verbal Distillation: verbal rejection sampling, then GRPO on the mixture.

arXiv 2601.21968. S(y) is the verbal score of a trajectory y. The student samples y; where
S(y) < θ, y is replaced by a demonstration of the same task. So the data of a task are drawn from
    π_student(y) · 1[S(y) >= θ] + (1 - α) · π_teacher(y),   α = P(S(y) >= θ),
in which α, the accepted share, rises by itself as the student improves. (The paper writes α in
front of the first term, too, which is then no distribution.) With cross-entropy on demonstrations,
no baseline, `loss_per = "rows"` and one optimiser step an update, the expected gradient is
    E_student[1[S >= θ] · reward · ∇log π(y)] + (1 - α) · E_teacher[∇log π(y)]
exactly (tests/agent/test_expectation.py). It is not the gradient of the mixture's expected reward,
in which α would be differentiated, too.

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
from ovd_agent.algorithms.base import Context, Judged, Needs
from ovd_agent.algorithms.rows import (
    PolicyTerm,
    imitation_row,
    merged,
    policy_row,
    ratio_one_row,
    shaped_row,
)
from ovd_agent.algorithms.schedules import ThetaSchedule
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
    """What the policy gradient maximises: the environment's reward (as in the paper), or S(y)."""
    credit: Literal["trajectory", "step"] = "trajectory"
    """One advantage for all tokens, or one per turn: the mean score from there on, less that of all
    turns of the baseline. "step" needs reward="score"."""
    baseline: Literal["student", "mixture", "none"] = "none"
    """Which mean reward is subtracted: of all student samples, of the mixture that is trained on,
    or none. Without one, accepted samples count in full even if the whole group is accepted."""
    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation (with n-1), as GRPO does."""

    def __post_init__(self) -> None:
        if self.credit == "step" and self.reward != "score":
            raise OptionError(
                'credit="step" is a credit of scores: set advantage.reward to "score", or'
                ' advantage.credit to "trajectory"'
            )


@dataclass(frozen=True)
class OVD:
    """Verbal rejection sampling: bad samples are replaced by demonstrations."""

    samples: int = 2
    """Student trajectories per task."""
    threshold: float = 7.0
    """θ: a trajectory that scores below it is rejected. 0 keeps all, the number of score levels
    none."""
    schedule: ThetaSchedule = field(default_factory=ThetaSchedule)
    accept_at_most: float = 1.0
    """Accept at most this share of the samples of an update: θ rises above `threshold` as far as
    needed. Below 1 the rule does not depend on the teacher's scale."""
    aggregate: Literal["mean", "min", "last"] = "mean"
    """How S(y) is computed from the step scores."""
    demonstration_loss: Literal["cross_entropy", "ratio_one", "shaped"] = "cross_entropy"
    """Loss of a demonstration, which counts as often as it replaces a sample."""
    unreplaced: Literal["drop", "keep"] = "drop"
    """A rejected sample without a demonstration is dropped, or kept in the policy gradient, where a
    baseline makes its advantage negative."""
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
        shown = self.advantage.baseline == "mixture" or self.demonstration_loss == "ratio_one"
        return Needs(
            self.samples,
            self.policy.references(),
            demonstration_rewards=shown,
            demonstration_scores=shown and self.advantage.reward == "score",
        )

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.policy.component(),)

    def check(self, score_levels: int) -> None:
        self.schedule.check(score_levels)
        if self.threshold > score_levels:
            raise OptionError(
                f"threshold={self.threshold}: expected 0 (keep all) to {score_levels} (reject all),"
                f" since scores run from 0 to {score_levels - 1}"
            )

    def score(self, trajectory: Trajectory) -> float | None:
        """S(y); 0 where the episode has no answer, None if a service ended it or no step has a
        score."""
        scores = trajectory.episode.expected_scores
        if not scores or trajectory.episode.end_reason == "infrastructure":
            return None
        if trajectory.episode.answer is None:
            return 0.0  # good steps that lead nowhere are not to be imitated
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
        threshold = self.schedule.at(self.threshold, context)
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
        chosen = self.advantage
        scores = [self.score(sample) for sample in group.played]
        mixed = reject_and_replace(group, scores, self.threshold)
        replacements = iter(mixed.replacements)
        context.judged += [
            Judged(sample, score, kept, None if kept else next(replacements, None))
            for sample, score in zip(group.played, scores, strict=True)
            if score is not None
            for kept in [score >= self.threshold]
        ]
        scored = [s for s, score in zip(group.played, scores, strict=True) if score is not None]
        played = mixed.kept + (mixed.unreplaced if self.unreplaced == "keep" else [])
        mixture = [*played, *mixed.replacements]
        judged = {"student": scored, "mixture": mixture, "none": []}[chosen.baseline]
        advantages = self._advantages(mixture, judged, context.score_levels)
        rows = [
            policy_row(
                sample,
                advantage,
                weight=self.policy.weight,
                kl=self.policy.kl,
            )
            for sample, advantage in zip(played, advantages, strict=False)
        ]
        for row in rows[len(mixed.kept) :]:
            row.kind = "rejected"
        taught = zip(mixed.replacements, advantages[len(played) :], strict=True)
        return rows + merged([self._taught(shown, each[0]) for shown, each in taught])

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

    def _advantages(
        self, mixture: Sequence[Trajectory], judged: Sequence[Trajectory], score_levels: int
    ) -> list[list[float]]:
        """Of each trajectory, for each of its turns; `judged` are those of the baseline."""
        returns = [self._returns(each, score_levels) for each in mixture]
        found = group_advantages(
            [value for each in returns for value in each],
            [value for each in judged for value in self._returns(each, score_levels)],
            divide_by_std=self.advantage.divide_by_std,
        )
        values = iter(found)
        by_trajectory = [[next(values) for _ in each] for each in returns]
        if self.advantage.credit == "step":
            return by_trajectory
        return [
            each * len(trajectory.episode.turns)
            for each, trajectory in zip(by_trajectory, mixture, strict=True)
        ]

    def _returns(self, trajectory: Trajectory, score_levels: int) -> list[float]:
        """What the policy gradient maximises: one figure, or with step credit one for each turn."""
        if self.advantage.reward == "outcome":
            return [trajectory.reward]
        if self.advantage.credit == "step":
            return score_to_go(trajectory, score_levels)
        return [(self.score(trajectory) or 0.0) / (score_levels - 1)]

    def _taught(self, shown: Trajectory, advantage: float) -> TrainingRow:
        match self.demonstration_loss:
            case "cross_entropy":
                return imitation_row(shown)
            case "ratio_one":
                return ratio_one_row(shown, advantage)
            case "shaped":
                return shaped_row(shown)
