"""PPO's clipped policy gradient (arXiv 1707.06347, equation 7), with truncated ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.rows import ADVANTAGE, BEHAVIOUR, TrainingRow
from ovd_agent.losses.base import LossComponent, Tokens, first
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class PolicyGradient(LossComponent):
    """- sum of pg · min(ratio · A, clip(ratio) · A), A the advantage.

    Where the behaviour log-probability is NaN the ratio is 1 by definition, log p -
    stop_gradient(log p): nobody sampled the token from the student. A ratio above `max_ratio`
    counts as that, its gradient too: the clip does not bound it where the advantage is negative,
    and an engine may have found a token far less likely than the learner does.
    """

    name = "pg"
    weight = "pg"
    streams = (ADVANTAGE, BEHAVIOUR)
    reduce = {"ratio_min": min, "ratio_max": max, "gap": first}  # noqa: RUF012

    clip_low: float = 0.2
    """PPO's clip of the ratio from below: 1 - clip_low."""
    clip_high: float = 0.2
    """And from above: 1 + clip_high."""
    max_ratio: float = 10.0
    """A larger ratio counts as this (truncated importance sampling, arXiv 1802.01561)."""

    def __post_init__(self) -> None:
        rules = {
            "clip_low": (0 <= self.clip_low <= 1, "a number in [0, 1]"),
            "clip_high": (self.clip_high >= 0, "at least 0"),
            "max_ratio": (self.max_ratio >= 1, "at least 1"),
        }
        for name, (valid, expected) in rules.items():
            if not valid:
                raise OptionError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def trained(self, row: TrainingRow) -> NDArray[np.bool_]:
        """An advantage of 0 has no gradient."""
        return row.has(self.weight) & row.has(ADVANTAGE)

    def loss(self, tokens: Tokens) -> Tensor:
        weight, behaviour = self.weighted(tokens)
        ratio = truncated_ratio(tokens.logprobs, behaviour, self.max_ratio)
        return self.clipped(ratio, weight)

    def clipped(self, ratio: Tensor, weight: Tensor) -> Tensor:
        """- sum of min(ratio · weight, clip(ratio) · weight)."""
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        return -torch.minimum(ratio * weight, clipped * weight).sum()

    def metrics(self, tokens: Tokens) -> dict[str, float]:
        """How far the policy is from the one that sampled, over tokens whose behaviour is known.

        `clip_fraction` counts tokens whose gradient the clip removes. `kl_behaviour` is the k3
        estimate of KL(behaviour || policy), `gap` the mean of |log ratio| in the first step, by
        whose weights the tokens were sampled. Ratios are 1 and the rest 0 where nothing is known.
        """
        weight, behaviour = self.weighted(tokens)
        known = ~behaviour.isnan() & (weight != 0)
        if not known.any():
            ratios = {"ratio_min": 1.0, "ratio_mean": 1.0, "ratio_max": 1.0}
            return {"clip_fraction": 0.0, **ratios, "kl_behaviour": 0.0, "gap": 0.0}
        logs, weight = (tokens.logprobs - behaviour)[known], weight[known]
        ratio = logs.exp()
        return {
            "clip_fraction": float(self.bounded(ratio, weight).double().mean()),
            "ratio_min": float(ratio.min()),
            "ratio_mean": float(ratio.mean()),
            "ratio_max": float(ratio.max()),
            "kl_behaviour": float((logs.expm1() - logs).mean()),
            "gap": float(logs.abs().mean()),
        }

    def bounded(self, ratio: Tensor, weight: Tensor) -> Tensor:
        """Where the clip removes the gradient."""
        above, below = ratio > 1 + self.clip_high, ratio < 1 - self.clip_low
        return (above & (weight > 0)) | (below & (weight < 0))

    def weighted(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Weight times advantage, whose sign it has, and the behaviour log-probabilities."""
        pg, behaviour = tokens.streams[self.weight], tokens.streams[BEHAVIOUR]
        # Elsewhere a behaviour may be anything, and an infinity times weight 0 would be NaN.
        behaviour = torch.where(pg != 0, behaviour, torch.nan)
        dtype = tokens.logprobs.dtype
        return (pg * tokens.streams[ADVANTAGE]).to(dtype), behaviour.to(dtype)


def truncated_ratio(logprobs: Tensor, behaviour: Tensor, most: float) -> Tensor:
    """policy / behaviour, at most `most`, its gradient too."""
    logs = log_ratio(logprobs, behaviour)
    return (logs - (logs.detach() - math.log(most)).clamp_min(0)).exp()


def log_ratio(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    """log of policy / behaviour; 0 with the gradient of log p where the behaviour is NaN."""
    return logprobs - torch.where(behaviour.isnan(), logprobs.detach(), behaviour)
