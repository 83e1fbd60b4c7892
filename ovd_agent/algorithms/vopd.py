"""vOPD: single-sample distillation with a control variate (arXiv 2605.07865).

From a token's advantage its mean over the student's distribution is subtracted, which is
-KL(student || teacher) at that context. The expected gradient is that of `opd`, its variance lower
over a real vocabulary; what it costs is the teacher's whole distribution, which is made a few
tokens at a time and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.of_tokens import OfTokens, check_sampled
from ovd_agent.algorithms.rows import distilled_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER, BaselinedDistillation
from ovd_agent.rollouts.group import Group


@dataclass(frozen=True)
class VOPD(OfTokens):
    """Single-sample distillation less a baseline that both distributions give."""

    k: int = 0
    """The baseline is over the student's k most likely tokens; 0: over all."""
    first_tokens: int = 0
    """Teach only this many first tokens of a trajectory (arXiv 2602.15260); 0: all."""
    clip_low: float = 0.2
    """Lower clip of the importance ratio: 1 - clip_low."""
    clip_high: float = 0.2
    """Upper clip of the importance ratio: 1 + clip_high."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sampled(self.samples, self.first_tokens)
        _ = self.losses  # which check their own options

    @property
    def needs(self) -> Needs:
        wants = self.wants(BaselinedDistillation.weight, whole=True)
        return Needs(self.samples, {TEACHER: wants})

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (BaselinedDistillation(self.clip_low, self.clip_high, k=self.k),)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        return [
            distilled_row(sample, BaselinedDistillation.weight, self.first_tokens)
            for sample in group.played
        ]
