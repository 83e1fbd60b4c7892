"""Do verbal scores tell good episodes from bad ones?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovd_envs.episode import Episode


@dataclass(frozen=True, slots=True)
class Agreement:
    """How scores and final correctness go together.

    `means` and `correct` are of the episodes; `steps` counts steps by their score, `right` those
    of them whose episode ended correct. `auc` is the chance that a correct episode has the higher
    mean score of a correct and an incorrect one.
    """

    means: NDArray[np.float64]
    correct: NDArray[np.bool_]
    steps: list[int]
    right: list[int]
    spearman: float
    auc: float


def agreement(episodes: Sequence[Episode], score_levels: int = 10) -> Agreement:
    """Compare the scores of finished, scored episodes with their exact match."""
    correct = np.array([bool(episode.exact_match) for episode in episodes])
    steps = Counter(level for episode in episodes for level in episode.levels)
    right = Counter(level for e in episodes if e.exact_match for level in e.levels)
    means = np.array([np.mean(episode.levels) for episode in episodes], dtype=np.float64)
    return Agreement(
        means,
        correct,
        [steps[level] for level in range(score_levels)],
        [right[level] for level in range(score_levels)],
        spearman=rank_correlation(means, correct.astype(np.float64)),
        auc=area_under_curve(means, correct),
    )


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The chance that a positive scores above a negative (a tie is half); NaN without both."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    above = _ranks(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * others))


def best_threshold(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Where to cut so that the accepted share of the positives exceeds that of the negatives most
    (Youden's J): half-way between two scores, or the least. NaN without both."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    values = np.unique(scores)
    gains = [
        float(positive[scores >= value].sum() / count - (~positive)[scores >= value].sum() / others)
        for value in values
    ]
    at = int(np.argmax(gains))
    return float(values[at] if at == 0 else (values[at - 1] + values[at]) / 2)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's; NaN where either is constant."""
    if len(one) < 2:
        return float("nan")
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
