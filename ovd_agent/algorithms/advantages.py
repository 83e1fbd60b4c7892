"""Advantages inside a group of trajectories of one task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovd_agent.rollouts.trajectory import Trajectory

EPSILON = 1e-4


def group_advantages(
    rewards: Sequence[float],
    baseline: Sequence[float] | None = None,
    *,
    divide_by_std: bool = True,
) -> list[float]:
    """GRPO's (r - mean) / (std + 1e-4), with the statistics of `baseline` if it is given.

    The standard deviation is the sample's, with n-1, as in TRL and verl. Without the division it is
    Dr.GRPO's (arXiv 2503.20783). A group with equal rewards has advantage 0 everywhere
    (DeepSeekMath, arXiv 2402.03300). With an empty baseline the advantages are the rewards.
    """
    if not rewards:
        return []
    if baseline is not None and not baseline:
        return list(rewards)
    reference = np.asarray(rewards if baseline is None else baseline, dtype=np.float64)
    centred = np.asarray(rewards, dtype=np.float64) - reference.mean()
    if divide_by_std:
        spread = reference.std(ddof=1) if len(reference) > 1 else 0.0
        centred = centred / (spread + EPSILON)
    return centred.tolist()


def score_to_go(trajectory: Trajectory, score_levels: int) -> list[float]:
    """For each turn the mean verbal score from there on, scaled to [0, 1]; turns without a score
    count as the mean of the others. All are 0 where the episode has no answer."""
    scores = [
        turn.score.expected if turn.score and turn.score.expected is not None else np.nan
        for turn in trajectory.episode.turns
    ]
    known = np.asarray(scores, dtype=np.float64) / (score_levels - 1)
    if np.isnan(known).all() or trajectory.episode.answer is None:
        return [0.0] * len(scores)
    known = np.where(np.isnan(known), np.nanmean(known), known)
    counts = np.arange(len(known), 0, -1)
    return (known[::-1].cumsum()[::-1] / counts).tolist()
