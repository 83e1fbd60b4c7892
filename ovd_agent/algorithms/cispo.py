"""CISPO: the clip bounds a token's weight, and no token loses its gradient (arXiv 2506.13585).

PPO's clip drops tokens that have become much more likely, among them the rare ones on which a
student's reasoning turns. Here the clipped ratio is a constant weight of REINFORCE.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.rows import PolicyTerm


@dataclass(frozen=True)
class CISPO(GRPO):
    """GRPO by REINFORCE with clipped, constant ratios."""

    policy: PolicyTerm = field(default_factory=lambda: PolicyTerm(clip_high=1.0, ratio="constant"))
