"""vOPD: single-sample distillation with a control variate (arXiv 2605.07865).

From a token's advantage its mean over the student's distribution is subtracted, which is
-KL(student || teacher) at that context. The expected gradient is that of `opd`, its variance lower
over a real vocabulary; what it costs is the teacher's whole distribution, which is made a few
tokens at a time and not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovd_agent.algorithms.base import Needs
from ovd_agent.algorithms.opd import OPD
from ovd_agent.losses.distillation import TEACHER, BaselinedDistillation
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class VOPD(OPD):
    """OPD less a baseline that both distributions give."""

    k: int = 0
    """The baseline is over the student's k most likely tokens; 0: over all."""

    @property
    def needs(self) -> Needs:
        wants = self.wants(BaselinedDistillation.weight, whole=True)
        return Needs(self.samples, {TEACHER: wants})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_scale != 1 or self.asymmetric or self.other_tokenizer:
            raise OptionError(
                "reward_scale, asymmetric and other_tokenizer: expected none of them beside a"
                " baseline"
            )

    def policy_gradient(self) -> BaselinedDistillation:
        return BaselinedDistillation(self.clip_low, self.clip_high, k=self.k)
