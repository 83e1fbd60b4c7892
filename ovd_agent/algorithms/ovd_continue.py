"""OVD with continuations: the beginning before the first bad step is kept, the teacher goes on.

With `prefix="leave"`, `loss_per="rows"` and one optimiser step an update, the expected gradient is
    E_student[1[no step is bad] · reward · ∇log π(y)] + E_student[1[step t is the first bad one] ·
    ∇log π(teacher's end | y before t)],
so that the teacher teaches in states that the student reaches (tests/agent/test_continuing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.continuing import Continuing, step_scores
from ovd_agent.algorithms.schedules import ThetaSchedule
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OVDContinue(Continuing):
    """Bad steps, and what follows them, are replaced by the teacher's continuation."""

    threshold: float = 7.0
    """θ: a step that scores below it is bad. 0 finds none bad, the number of score levels all."""
    schedule: ThetaSchedule = field(default_factory=ThetaSchedule)
    cut: Literal["score", "group"] = "score"
    """The first bad step is the first below θ, or of a sample that failed the earliest from which
    every sample of the group failed that had begun alike."""

    def check(self, score_levels: int) -> None:
        self.schedule.check(score_levels)
        if not 0 <= self.threshold <= score_levels:
            raise OptionError(
                f"threshold={self.threshold}: expected 0 (no step is bad) to {score_levels}"
            )

    def adapted(self, samples: Sequence[Trajectory], context: Context) -> OVDContinue:
        threshold = self.schedule.at(self.threshold, context)
        context.log("threshold", threshold)
        steps = [scores for sample in samples if (scores := step_scores(sample))]
        for turn in range(max(map(len, steps), default=0)):
            here = [each[turn] for each in steps if len(each) > turn]
            good = [score is None or score >= threshold for score in here]
            context.log(f"acceptance_turn_{turn + 1}", sum(good) / len(good))
        return replace(self, threshold=threshold)._switched(context)

    def first_bad_turns(self, samples: Sequence[Trajectory]) -> list[int | None]:
        return [self._first_bad(sample, samples) for sample in samples]

    def _first_bad(self, sample: Trajectory, group: Sequence[Trajectory]) -> int | None:
        turns = sample.episode.turns
        if not turns:
            return None
        scores = step_scores(sample)
        bad = [t for t, score in enumerate(scores) if score is not None and score < self.threshold]
        if self.cut == "group" and not sample.episode.exact_match and self.threshold > 0:
            bad.append(_no_way_on(sample, group))
        if not bad and sample.episode.answer is None and self.threshold > 0:
            bad.append(len(turns) - 1)  # good steps that lead nowhere
        return min(bad, default=None)


def _no_way_on(sample: Trajectory, group: Sequence[Trajectory]) -> int:
    """The earliest turn of a failed sample after which nobody in its group succeeded."""
    mine = [turn.action for turn in sample.episode.turns]
    right = [
        [turn.action for turn in other.episode.turns]
        for other in group
        if other.episode.exact_match
    ]
    return next(
        t
        for t in range(len(mine))
        if not any(actions[: t + 1] == mine[: t + 1] for actions in right)
    )
