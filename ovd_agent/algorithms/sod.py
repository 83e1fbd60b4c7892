"""SOD: distillation that trusts a teacher less where it has lost track (arXiv 2605.07725).

In an episode of several turns the student reaches states that the teacher would not. The
divergence d of a turn is the mean of |log p_student - log p_teacher| over its tokens; turn k counts
min(d_1 / d_k, 1 + delta), each against the first. (The paper multiplies the ratios of neighbouring
turns, which is the same.) The advantage of a token is GRPO's plus that weight times
log p_teacher - log p_student.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.of_tokens import OfTokens
from ovd_agent.algorithms.rows import PolicyTerm, distilled_row, policy_row
from ovd_agent.learner.rows import BEHAVIOUR, TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER, TEACHER_LOGPROBS, Distillation
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError

SMALLEST = 1e-6
"""A divergence below it counts as this: teacher and student agree."""


@dataclass(frozen=True)
class SOD(OfTokens):
    """GRPO and single-sample distillation, weighted turn by turn."""

    samples: int = 4
    """Student trajectories per task: a group."""
    delta: float = 0.2
    """A turn counts at most 1 + delta."""
    policy: PolicyTerm = field(default_factory=lambda: PolicyTerm(clip_high=0.28))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or self.delta < 0:
            raise OptionError("samples: expected at least 2; delta: expected at least 0")

    @property
    def needs(self) -> Needs:
        taught = {TEACHER: self.wants(Distillation.weight)}
        return Needs(self.samples, {**self.policy.references(), **taught})

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (
            self.policy.component(),
            Distillation(self.policy.clip_low, self.policy.clip_high, self.policy.max_ratio),
        )

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        advantages = group_advantages([sample.reward for sample in group.played])
        found: list[TrainingRow] = []
        for sample, advantage in zip(group.played, advantages, strict=True):
            row = distilled_row(sample, Distillation.weight)
            own = policy_row(
                sample,
                [advantage] * len(sample.episode.turns),
                weight=self.policy.weight,
                kl=self.policy.kl,
            )
            row.streams |= own.streams
            found.append(row)
        return found

    def measured(self, rows: Sequence[TrainingRow]) -> None:
        """Weight the turns, once the teacher has read the rows."""
        super().measured(rows)
        for row in rows:
            if TEACHER_LOGPROBS in row.streams:
                row.streams[Distillation.weight] = self._weights(row)

    def _weights(self, row: TrainingRow) -> NDArray[Any]:
        weights = row.stream(Distillation.weight).copy()
        gaps = np.abs(row.stream(BEHAVIOUR) - row.streams[TEACHER_LOGPROBS])
        turns = runs(row.has(Distillation.weight))
        divergences = [max(SMALLEST, float(gaps[turn].mean())) for turn in turns]
        for turn, divergence in zip(turns, divergences, strict=True):
            weights[turn] = min(divergences[0] / divergence, 1 + self.delta)
        return weights


def runs(mask: NDArray[np.bool_]) -> list[slice]:
    """The stretches of a mask [n] that are true: a student's turns."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
