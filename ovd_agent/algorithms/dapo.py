"""DAPO: a higher clip from above, and groups with equal rewards sampled again (arXiv 2503.14476).

The loss is divided by all tokens of an optimiser step, which is the learner's default. The paper
samples other tasks until the batch is full of groups that differ; here the same tasks are sampled
again, up to `resample` times, so that every task still comes once an epoch. Its penalty for
overlong samples is not here: an episode that is cut off has no answer, and so no reward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.rows import PolicyTerm
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class DAPO(GRPO):
    """GRPO that samples a group without a gradient again, and clips less from above."""

    resample: int = 3
    """How often a task whose samples all earned the same is sampled again."""
    policy: PolicyTerm = field(default_factory=lambda: PolicyTerm(clip_high=0.28))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resample < 0:
            raise OptionError(f"resample={self.resample}: expected at least 0")

    def is_informative(self, group: Group) -> bool:
        """Whether any sample has an advantage."""
        return len({sample.reward for sample in group.played}) > 1
