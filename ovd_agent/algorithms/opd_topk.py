"""Distillation on K tokens and a bucket for the rest (arXiv 2603.25562, 2604.13016).

Most of the mass of both distributions lies on few tokens. A divergence over K of them and one
bucket bounds the full one from below, and what a served teacher would have to send is K numbers.
Without the bucket mass could leave the K tokens for free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovd_agent.algorithms.gkd import GKD
from ovd_agent.losses.divergence import Divergence
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OPDTopK(GKD):
    """Divergence over K tokens and a bucket."""

    beta: float = 1.0
    """Of "jsd": 0 is KL(teacher || student), 1 KL(student || teacher). Of "skewed": the teacher's
    share of the mixture."""
    k: int = 16
    """Tokens with a probability of their own; the others share a bucket."""
    of: Literal["student", "teacher"] = "student"
    """Whose k most likely tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise OptionError(f"k={self.k}: expected at least 1")

    def component(self) -> Divergence:
        return Divergence(self.kind, self.beta, self.k, self.of)
