"""GSPO: one importance ratio for a whole sample, clipped as one (arXiv 2507.18071).

The reward is that of a sample, and so is what is clipped. The ratio is a geometric mean over
tokens, hence close to 1 and clipped far more tightly. The paper divides each sample by its length:
`learner.loss_per = "row_means"`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.rows import PolicyTerm


@dataclass(frozen=True)
class GSPO(GRPO):
    """GRPO whose ratio is that of the sample."""

    policy: PolicyTerm = field(
        default_factory=lambda: PolicyTerm(clip_low=3e-4, clip_high=4e-4, ratio="sequence")
    )
