"""How θ moves over the updates of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ovd_agent.algorithms.base import Context
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class ThetaSchedule:
    """Move θ from `threshold` at the first update to another value at the last."""

    end: float | None = None
    """θ at the last update; None keeps it constant."""
    shape: Literal["linear", "cosine"] = "linear"
    """"linear", or "cosine", which is slow at both ends."""

    def check(self, score_levels: int) -> None:
        if self.end is not None and not 0 <= self.end <= score_levels:
            raise OptionError(f"schedule.end={self.end}: expected 0 to {score_levels}")

    def at(self, start: float, context: Context) -> float:
        """θ in the update of `context`."""
        if self.end is None:
            return start
        progress = context.update / max(1, context.updates - 1)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return start + (self.end - start) * progress
