"""Dr.GRPO: GRPO without its two biases (arXiv 2503.20783).

Advantages are not divided by the group's standard deviation, which favours tasks that are nearly
always or nearly never solved; and a long sample is not divided by its own length. The paper divides
by a constant: `learner.loss_per = "rows"` is that up to the learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovd_agent.algorithms.grpo import GRPO


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """GRPO with rewards less the group's mean as advantages."""

    divide_by_std: bool = False
    """Divide advantages by the group's standard deviation (with n-1), as GRPO does."""
