"""REINFORCE weighted by clipped ratios (CISPO, arXiv 2506.13585, equation 4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ovd_agent.losses.base import Tokens
from ovd_agent.losses.policy_gradient import PolicyGradient, log_ratio


@dataclass(frozen=True)
class CISPOGradient(PolicyGradient):
    """- sum of pg · A · stop_gradient(min(ratio, 1 + clip_high)) · log p.

    The clip bounds how much a token counts and removes no token's gradient, rare ones' neither. As
    in the paper's experiments nothing bounds the ratio from below: `clip_low` is not read.
    """

    def loss(self, tokens: Tokens) -> Tensor:
        weight, behaviour = self.weighted(tokens)
        ratio = log_ratio(tokens.logprobs, behaviour).detach().exp()
        return -(ratio.clamp_max(1 + self.clip_high) * weight * tokens.logprobs).sum()

    def bounded(self, ratio: Tensor, weight: Tensor) -> Tensor:
        """Where the clip bounds the weight of a token."""
        return ratio > 1 + self.clip_high
