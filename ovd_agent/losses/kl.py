"""The KL divergence to a frozen reference, by Schulman's estimator k3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovd_agent.losses.base import LossComponent, Tokens

START = "start"
"""The reference: the student as the run began."""
REFERENCE_LOGPROBS = f"logprobs_{START}"


@dataclass(frozen=True)
class KL(LossComponent):
    """Sum of kl · k3(log p, log-probability under the reference)."""

    name = "kl"
    weight = "kl"
    streams = (REFERENCE_LOGPROBS,)
    required = (REFERENCE_LOGPROBS,)

    def loss(self, tokens: Tokens) -> Tensor:
        weight, reference = tokens.stream(self.weight), tokens.stream(REFERENCE_LOGPROBS)
        # An unweighted token must not overflow: an infinity times weight 0 would be NaN.
        reference = torch.where(weight != 0, reference, tokens.logprobs.detach())
        return (weight * k3(tokens.logprobs, reference)).sum()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy || reference): unbiased, never negative."""
    difference = reference - logprobs
    return difference.expm1() - difference
