"""Cross-entropy on tokens that somebody else wrote."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovd_agent.losses.base import LossComponent, Tokens


@dataclass(frozen=True)
class CrossEntropy(LossComponent):
    """- sum of ce · log p."""

    name = "ce"
    weight = "ce"

    def loss(self, tokens: Tokens) -> Tensor:
        return -(tokens.stream(self.weight) * tokens.logprobs).sum()
