"""The policy gradient with one ratio for a whole row (GSPO, arXiv 2507.18071, equation 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.rows import ADVANTAGE, TrainingRow
from ovd_agent.losses.base import Tokens
from ovd_agent.losses.policy_gradient import PolicyGradient, log_ratio


@dataclass(frozen=True)
class SequenceGradient(PolicyGradient):
    """- sum of pg · min(s · A, clip(s) · A), s the geometric mean of the ratios of a row's tokens.

    The mean is over the tokens that are weighted; those without a behaviour have ratio 1.
    """

    def trained(self, row: TrainingRow) -> NDArray[np.bool_]:
        """All weighted tokens, since each is part of the ratio, where any has an advantage."""
        weighted = row.has(self.weight)
        return weighted & bool((weighted & row.has(ADVANTAGE)).any())

    def loss(self, tokens: Tokens) -> Tensor:
        weight, behaviour = self.weighted(tokens)
        return self.clipped(self._ratios(tokens, behaviour), weight)

    def _ratios(self, tokens: Tokens, behaviour: Tensor) -> Tensor:
        """The ratio of its row for each token, at most `max_ratio`."""
        assert tokens.rows is not None
        counted = (tokens.streams[self.weight] != 0).to(behaviour.dtype)
        logs = torch.where(counted > 0, log_ratio(tokens.logprobs, behaviour), 0.0)
        size = len(logs)  # no fewer than there are rows, without asking the device
        sums = logs.new_zeros(size).index_add(0, tokens.rows, logs)
        counts = logs.new_zeros(size).index_add(0, tokens.rows, counted)
        means = (sums / counts.clamp_min(1))[tokens.rows]
        return (means - (means.detach() - np.log(self.max_ratio)).clamp_min(0)).exp()

    def metrics(self, tokens: Tokens) -> dict[str, float]:
        """As of `PolicyGradient`, and the share of tokens in rows that the clip removes."""
        found = super().metrics(tokens)
        weight, behaviour = self.weighted(tokens)
        known = ~behaviour.isnan() & (weight != 0)
        if known.any():
            removed = self.bounded(self._ratios(tokens, behaviour), weight)[known]
            found["clip_fraction"] = float(removed.double().mean())
        return found
