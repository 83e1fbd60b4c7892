"""Imitation by the probability itself (LUFFY, arXiv 2504.14945)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovd_agent.losses.base import LossComponent, Tokens
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class Shaped(LossComponent):
    """- sum of shaped · p / (p + gamma): tokens that the student finds unlikely pull hardest,
    hopeless ones hardly."""

    name = "shaped"
    weight = "shaped"

    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise OptionError(f"gamma={self.gamma}: expected more than 0")

    def loss(self, tokens: Tokens) -> Tensor:
        probability = tokens.logprobs.exp()
        return (-tokens.stream(self.weight) * probability / (probability + self.gamma)).sum()
