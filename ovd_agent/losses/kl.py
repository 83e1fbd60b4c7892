"""The KL divergence of the policy to a frozen reference, by Schulman's estimator k3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovd_agent.learner.rows import BEHAVIOUR
from ovd_agent.losses.base import LossComponent, Tokens
from ovd_agent.losses.policy_gradient import truncated_ratio

START = "start"
"""The reference: the student as the run began."""
REFERENCE_LOGPROBS = f"logprobs_{START}"


@dataclass(frozen=True)
class KL(LossComponent):
    """Sum of kl · ratio · k3(log p, log-probability under the reference).

    The ratio policy / behaviour makes value and gradient those of KL(policy || reference): k3 alone
    has the gradient of KL(reference || policy), and after the first optimiser step of an update the
    tokens are not the policy's own. It is 1, with the gradient of
    log p, where the behaviour is NaN.
    """

    name = "kl"
    weight = "kl"
    streams = (REFERENCE_LOGPROBS, BEHAVIOUR)
    required = (REFERENCE_LOGPROBS,)

    max_ratio: float = 10.0
    """A larger ratio counts as this."""

    def loss(self, tokens: Tokens) -> Tensor:
        weight, reference = tokens.stream(self.weight), tokens.stream(REFERENCE_LOGPROBS)
        # An unweighted token must not overflow: an infinity times weight 0 would be NaN.
        reference = torch.where(weight != 0, reference, tokens.logprobs.detach())
        behaviour = torch.where(weight != 0, tokens.stream(BEHAVIOUR), torch.nan)
        ratio = truncated_ratio(tokens.logprobs, behaviour, self.max_ratio)
        return (weight * ratio * k3(tokens.logprobs, reference)).sum()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy || reference): unbiased, never negative."""
    difference = reference - logprobs
    return difference.expm1() - difference
