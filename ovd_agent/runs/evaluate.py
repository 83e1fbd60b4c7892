"""Evaluation on held-out tasks: EM and F1 with 95% intervals, in all and per hop, and pass@k."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task


def evaluate(
    rollout: Rollout,
    tasks: Sequence[Task],
    *,
    temperature: float = 0.0,
    samples: int = 1,
    on_finished: Callable[[int], None] = lambda count: None,
) -> tuple[dict[str, Any], list[Trajectory]]:
    """Play every task `samples` times and summarise; a task's trajectories come together.

    `on_finished` is told how many episodes have ended.
    """
    repeated = [task for task in tasks for _ in range(samples)]
    trajectories = rollout.play(repeated, temperature=temperature, on_finished=on_finished)
    result = summarise([trajectory.episode for trajectory in trajectories])
    if samples > 1:
        result["pass_at"] = {
            str(k): pass_at_k(trajectories, samples, k) for k in range(1, samples + 1)
        }
    return result, trajectories


def pass_at_k(trajectories: Sequence[Trajectory], samples: int, k: int) -> float:
    """The chance that one of k samples of a task is right, unbiased from n >= k of them:
    1 - C(n - c, k) / C(n, k), c of n right (Chen et al. 2021, arXiv 2107.03374)."""
    groups = [trajectories[i : i + samples] for i in range(0, len(trajectories), samples)]
    right = [sum(bool(each.episode.exact_match) for each in group) for group in groups]
    wrong = [math.comb(samples - c, k) / math.comb(samples, k) for c in right]
    return 1 - sum(wrong) / max(1, len(wrong))


def summarise(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Counts, EM and F1 with intervals, and the same for each number of hops."""
    hops = sorted({episode.task.hops for episode in episodes})
    per_hop = {
        str(hop): _summary([episode for episode in episodes if episode.task.hops == hop])
        for hop in hops
    }
    return {**_summary(episodes), "per_hop": per_hop}


def _summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    matches = [episode.exact_match or 0.0 for episode in episodes]
    f1 = [episode.f1 or 0.0 for episode in episodes]
    em_low, em_high = wilson(sum(matches), len(matches))
    f1_low, f1_high = bootstrap(f1)
    return {
        "count": len(episodes),
        "em": float(np.mean(matches)) if matches else 0.0,
        "em_low": em_low,
        "em_high": em_high,
        "f1": float(np.mean(f1)) if f1 else 0.0,
        "f1_low": f1_low,
        "f1_high": f1_high,
        "answered": sum(e.end_reason == "answered" for e in episodes) / max(1, len(episodes)),
    }


def wilson(successes: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927); (0, 1) when nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def bootstrap(values: Sequence[float], draws: int = 1000) -> tuple[float, float]:
    """95% percentile interval of the mean, from seeded resamples."""
    if not values:
        return 0.0, 1.0
    rng = np.random.default_rng(0)
    data = np.asarray(values)
    means = data[rng.integers(0, len(data), size=(draws, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
