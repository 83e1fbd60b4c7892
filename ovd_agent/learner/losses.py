"""The loss of weighed tokens and its diagnostics, as pure functions of 1-D tensors [n]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPE = 0.1
"""The γ of p / (p + γ), as LUFFY has it (arXiv 2504.14945)."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Final coefficients of the trained tokens: weights, advantages and copies multiplied, the
    denominator divided out, in float64. After this nobody averages anything. `behaviour` is NaN
    where unknown.
    """

    pg: Tensor
    ce: Tensor
    kl: Tensor
    shaped: Tensor
    behaviour: Tensor

    def to(self, dtype: torch.dtype) -> Coefficients:
        streams = (self.pg, self.ce, self.kl, self.shaped, self.behaviour)
        return Coefficients(*(stream.to(dtype) for stream in streams))


def row_loss(
    logprobs: Tensor,
    tokens: Coefficients,
    reference: Tensor | None,
    clip_low: float,
    clip_high: float,
    max_ratio: float,
) -> Tensor:
    """The four parts of the loss, [4]: policy gradient, cross-entropy, KL, shaped imitation.

    The policy gradient is PPO's clipped objective (arXiv 1707.06347, eq. 7): since its weights
    are never negative, the sign of `pg` is that of the advantage. A ratio above `max_ratio`
    counts as that, its gradient too: the clip does not bound it where the advantage is negative,
    and an engine may have found a token far less likely than the learner does.
    """
    tokens = tokens.to(logprobs.dtype)
    logs = log_ratio(logprobs, tokens.behaviour)
    ratio = (logs - (logs.detach() - math.log(max_ratio)).clamp_min(0)).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    pg = -torch.minimum(ratio * tokens.pg, clipped * tokens.pg)
    kl = torch.zeros_like(logprobs)
    if reference is not None:
        # An unweighted token must not overflow: an infinity times weight 0 would be NaN.
        kl = tokens.kl * k3(logprobs, torch.where(tokens.kl != 0, reference, logprobs.detach()))
    probability = logprobs.exp()
    shaped = -tokens.shaped * probability / (probability + SHAPE)
    return torch.stack([pg.sum(), -(tokens.ce * logprobs).sum(), kl.sum(), shaped.sum()])


def log_ratio(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    """log of policy / behaviour; 0 with the gradient of log p where the behaviour is NaN."""
    return logprobs - torch.where(behaviour.isnan(), logprobs.detach(), behaviour)


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's estimator of KL(policy || reference): unbiased, never negative."""
    difference = reference - logprobs
    return difference.expm1() - difference


def ratio_metrics(
    logprobs: Tensor, tokens: Coefficients, clip_low: float, clip_high: float
) -> dict[str, float]:
    """How far the policy is from the one that sampled, over tokens whose behaviour is known.

    `clip_fraction` counts tokens whose gradient the clip removes. `kl_behaviour` is the k3
    estimate of KL(behaviour || policy), `gap` the mean of |log ratio|. Ratios are 1 and the rest
    0 where nothing is known.
    """
    known = ~tokens.behaviour.isnan() & (tokens.pg != 0)
    if not known.any():
        ratios = {"ratio_min": 1.0, "ratio_mean": 1.0, "ratio_max": 1.0}
        return {"clip_fraction": 0.0, **ratios, "kl_behaviour": 0.0, "gap": 0.0}
    logs, pg = (logprobs - tokens.behaviour)[known], tokens.pg[known]
    ratio = logs.exp()
    removed = ((ratio > 1 + clip_high) & (pg > 0)) | ((ratio < 1 - clip_low) & (pg < 0))
    return {
        "clip_fraction": float(removed.double().mean()),
        "ratio_min": float(ratio.min()),
        "ratio_mean": float(ratio.mean()),
        "ratio_max": float(ratio.max()),
        "kl_behaviour": float((logs.expm1() - logs).mean()),
        "gap": float(logs.abs().mean()),
    }
