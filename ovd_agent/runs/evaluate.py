"""Evaluation on held-out tasks: EM and F1 with 95% intervals, in all and per hop, and what several
samples of a task give: pass@k and maj@k."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task
from ovd_envs.scenario import Scenario


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
    episodes = [trajectory.episode for trajectory in trajectories]
    result = summarise(episodes, samples)
    if samples > 1:
        result |= of_samples(episodes, samples, rollout.scenario)
    return result, trajectories


def of_samples(episodes: Sequence[Episode], samples: int, scenario: Scenario) -> dict[str, Any]:
    """pass@k for every k up to the number of samples, and maj@k for all of them, each with an
    interval over questions."""
    groups = [episodes[start : start + samples] for start in range(0, len(episodes), samples)]
    right = [sum(bool(each.exact_match) for each in group) for group in groups]
    passed = {str(k): _rate([pass_at(k, samples, c) for c in right]) for k in range(1, samples + 1)}
    voted = _rate([majority(group, scenario) for group in groups])
    return {"samples": samples, "pass_at": passed, "maj_at": {str(samples): voted}}


def pass_at(k: int, samples: int, right: int) -> float:
    """The chance that one of k samples of a task is right, unbiased from n >= k of them, of which
    c are: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def majority(episodes: Sequence[Episode], scenario: Scenario) -> float:
    """Whether the answer that most samples of a task gave is right; of several such answers, the
    share that is (Wang et al. 2022, arXiv 2203.11171). Answers are equal if one is right where the
    other is the accepted one."""
    votes: list[list[Episode]] = []
    for episode in episodes:
        if (answer := episode.answer) is None:
            continue
        alike = (group for group in votes if _same(answer, group[0], scenario))
        group = next(alike, None)
        if group is None:
            votes.append([episode])
        else:
            group.append(episode)
    most = max(map(len, votes), default=0)
    return _mean([group[0].exact_match or 0.0 for group in votes if len(group) == most])


def _same(answer: str, other: Episode, scenario: Scenario) -> bool:
    if answer == other.answer:
        return True
    accepting = replace(other.task, answers=(other.answer or "",))
    return bool(scenario.grade(accepting, answer).exact_match)


def _rate(values: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap(values)
    return {"rate": _mean(values), "low": low, "high": high}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def summarise(episodes: Sequence[Episode], samples: int = 1) -> dict[str, Any]:
    """Counts, EM and F1 with intervals, and the same for each number of hops. Where every task was
    played `samples` times, EM is the mean over them (avg@k)."""
    hops = sorted({episode.task.hops for episode in episodes})
    per_hop = {
        str(hop): _summary([each for each in episodes if each.task.hops == hop], samples)
        for hop in hops
    }
    return {**_summary(episodes, samples), "per_hop": per_hop}


def _summary(episodes: Sequence[Episode], samples: int) -> dict[str, Any]:
    matches = by_task([episode.exact_match or 0.0 for episode in episodes], samples)
    f1 = by_task([episode.f1 or 0.0 for episode in episodes], samples)
    # Samples of one question are no independent draws: intervals are over questions.
    one = samples == 1
    em_low, em_high = wilson(sum(matches), len(matches)) if one else bootstrap(matches)
    f1_low, f1_high = bootstrap(f1)
    return {
        "count": len(episodes),
        "em": _mean(matches),
        "em_low": em_low,
        "em_high": em_high,
        "f1": _mean(f1),
        "f1_low": f1_low,
        "f1_high": f1_high,
        "answered": sum(e.end_reason == "answered" for e in episodes) / max(1, len(episodes)),
    }


def by_task(values: Sequence[float], samples: int) -> list[float]:
    """The mean over the samples of each task."""
    return np.reshape(values, (-1, samples)).mean(axis=1).tolist() if values else []


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
