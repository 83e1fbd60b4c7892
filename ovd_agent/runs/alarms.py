"""What the figures of a run warn of, with advice: the ways in which training fails silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

Metrics = Mapping[str, Any]

CUT_OFF = 0.2
"""Share of episodes outgrowing `max_length`."""
PATIENCE = 3
"""Updates whose figures are averaged."""
NONE_ACCEPTED = 10
"""Updates in a row without any accepted sample. A student that knows nothing yet has some."""
MIN_SCORES = 40
"""Fewer scores say nothing about their spread."""
MIN_GAP = 0.05
"""Nats a token. Policy and learner in bfloat16 differ by a third of it."""
MAX_KL = 0.2
"""Nats a token, within one update."""
GROWTH = 2.0
"""Of the gap since the run began."""
MIN_ACCEPTED, MIN_TRUTH = 12, 0.5
"""Accepted samples that say something, and the share of them that is right where a judge helps."""
MEMORY_GROWTH, MEMORY_MB = 1.25, 512
"""Of the peak after the second update, when every kind of work has been done once."""


@dataclass(slots=True)
class Alarms:
    """Looks at each update. An alarm is said when it begins to hold, and not again until it has
    ceased."""

    max_length: int
    score_levels: int
    history: list[Metrics] = field(default_factory=list[Metrics])
    """The metrics of earlier updates, which a resumed run reads from its log."""
    _holding: set[str] = field(default_factory=set[str])

    def advice(self, metrics: Metrics, of_algorithm: str | None = None) -> list[str]:
        """What is to be said after an update; `of_algorithm` is the algorithm's own."""
        self.history.append(metrics)
        found = {name: alarm(self) for name, alarm in ALARMS.items()}
        found["algorithm"] = of_algorithm
        holding = {name for name, text in found.items() if text}
        new = holding - self._holding
        self._holding = holding
        return [text for name, text in found.items() if text and name in new]

    def recent(self, name: str, count: int = PATIENCE) -> list[float]:
        """A figure of the latest updates; none if one of them lacks it."""
        values = [metrics.get(name) for metrics in self.history[-count:]]
        found = [float(value) for value in values if value is not None]
        return found if len(found) == count else []


def cut_off(alarms: Alarms) -> str | None:
    ends: Mapping[str, int] = alarms.history[-1]["ends"]
    share = ends.get("length_limit", 0) / max(1, sum(ends.values()))
    if share <= CUT_OFF:
        return None
    return (
        f"{share:.0%} of the episodes outgrew rollout.max_length={alarms.max_length} tokens and"
        " were cut off: raise it, or search for less (env.top_k, shorter passages)"
    )


def untrained(alarms: Alarms) -> str | None:
    metrics = alarms.history[-1]
    if metrics["optimizer_steps"]:
        return None
    failed = metrics["demonstrations_failed"]
    why = f"{failed} demonstrations failed" if failed else "no reward differed from its baseline"
    return (
        f"nothing was trained: no token had a gradient ({why}); begin with imitation"
        " (--algorithm sft), easier tasks, or a teacher that demonstrates"
    )


def nothing_accepted(alarms: Alarms) -> str | None:
    accepted = alarms.recent("acceptance", NONE_ACCEPTED)
    meant = (alarms.history[-1].get("threshold") or 0) >= alarms.score_levels
    if not accepted or any(accepted) or meant:
        return None
    return (
        f"no sample was accepted in {NONE_ACCEPTED} updates: lower algorithm.threshold to what this"
        " teacher gives (`ovd calibrate` measures it), or begin with imitation (--algorithm sft)"
    )


def scores_without_spread(alarms: Alarms) -> str | None:
    histogram: Sequence[int] = alarms.history[-1]["score_histogram"]
    if sum(histogram) < MIN_SCORES or sum(count > 0 for count in histogram) > 1:
        return None
    level = max(range(len(histogram)), key=histogram.__getitem__)
    return (
        f"the teacher gave all {sum(histogram)} steps the score {level}: it tells good from bad"
        " no longer; measure it with `ovd calibrate`, or take a larger model"
    )


def judge_parts_from_truth(alarms: Alarms) -> str | None:
    """The judge accepts what is wrong: the student learns to please it."""
    recent = [each for each in alarms.history[-PATIENCE:] if each.get("accepted_samples")]
    accepted = sum(each["accepted_samples"] for each in recent)
    if accepted < MIN_ACCEPTED:
        return None
    right = sum(each["accepted_samples"] * each["accepted_em"] for each in recent)
    if right >= MIN_TRUTH * accepted:
        return None
    return (
        f"of the last {accepted} samples that the teacher's scores accepted {right / accepted:.0%}"
        " are right: judged and true reward part; measure the judge with `ovd calibrate`, show it"
        " the right answer (teacher.shows_answer), or raise algorithm.threshold"
    )


def growing_gap(alarms: Alarms) -> str | None:
    now = alarms.recent("gap")
    first = [float(m["gap"]) for m in alarms.history[:PATIENCE] if m.get("gap") is not None]
    if not now or len(alarms.history) < 2 * PATIENCE or not first:
        return None
    if fmean(now) <= max(MIN_GAP, GROWTH * fmean(first)):
        return None
    return (
        f"the log-probabilities of policy and learner differ by {fmean(now):.3f} nats a token, at"
        f" first by {fmean(first):.3f}: the policy drifts away from the learner; compute both in"
        " float32, or start the policy's server again"
    )


def growing_kl(alarms: Alarms) -> str | None:
    now = alarms.recent("kl_behaviour")
    if not now or fmean(now) <= MAX_KL:
        return None
    return (
        f"within an update the student moves {fmean(now):.2f} nats a token away from the one that"
        " played: lower learner.learning_rate or learner.minibatches, or raise algorithm.policy.kl"
    )


def growing_memory(alarms: Alarms) -> str | None:
    peaks = [float(metrics["peak_memory_mb"]) for metrics in alarms.history]
    if len(peaks) <= PATIENCE or peaks[-1] <= MEMORY_GROWTH * peaks[1] + MEMORY_MB:
        return None
    return (
        f"peak memory has grown from {peaks[1]:,.0f} to {peaks[-1]:,.0f} MB: lower"
        " learner.token_budget, learner.logit_budget or rollout.slots, if it goes on"
    )


ALARMS: dict[str, Callable[[Alarms], str | None]] = {
    "cut_off": cut_off,
    "untrained": untrained,
    "nothing_accepted": nothing_accepted,
    "scores_without_spread": scores_without_spread,
    "judge_parts_from_truth": judge_parts_from_truth,
    "growing_gap": growing_gap,
    "growing_kl": growing_kl,
    "growing_memory": growing_memory,
}
