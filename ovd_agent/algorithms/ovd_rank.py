"""OVD by rank: the best beginnings of a group are kept, the others are continued by the teacher.

The ranking of the second version of arXiv 2601.21968, as reported: sub-trajectories are compared
within a group, so that no threshold on the teacher's scale decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.continuing import Continuing, step_scores
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OVDRank(Continuing):
    """A sub-trajectory y before t is worth the mean score of its steps; the best are kept."""

    samples: int = 4
    """Student trajectories per task."""
    keep: float = 0.5
    """The share of a group's sub-trajectories that is kept, and what ties with them."""
    least: float = 5.0
    """One that is worth less is never kept, however bad the others are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep={self.keep}: expected a share in (0, 1]")

    def first_bad_turns(self, samples: Sequence[Trajectory]) -> list[int | None]:
        worth = [beginnings(sample) for sample in samples]
        ranked = sorted((value for each in worth for value in each), reverse=True)
        if not ranked:
            return [None] * len(samples)
        bar = max(self.least, ranked[math.ceil(self.keep * len(ranked)) - 1])
        found: list[int | None] = []
        for sample, values in zip(samples, worth, strict=True):
            bad = next((turn for turn, value in enumerate(values) if value < bar), None)
            if bad is None and values and sample.episode.answer is None:
                bad = len(values) - 1
            found.append(bad)
        return found


def beginnings(sample: Trajectory) -> list[float]:
    """The mean score of the steps up to each turn; a step without a score changes nothing."""
    values: list[float] = []
    total, count = 0.0, 0
    for score in step_scores(sample):
        if score is not None:
            total, count = total + score, count + 1
        values.append(total / count if count else math.inf)
    return values
