"""What happened in the episodes of an update, as a flat record."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ovd_agent.algorithms.base import Judged
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory


def describe(
    groups: Sequence[Group], rows: Sequence[TrainingRow], score_levels: int
) -> dict[str, Any]:
    """Rewards, grades, scores and the ledger of an update, before any learning.

    `acceptance` is the share of the student's samples that are trained on, without those that were
    rejected; None where it did not play. `score_mean` is of expected scores, as S(y) is, and
    `score_histogram` of levels. `ends` counts how its episodes ended, `demonstrations` those that
    came, and `demonstrated` names their tasks.
    """
    samples = [sample for group in groups for sample in group.samples]
    shown = [each for group in groups for each in group.demonstrations]
    ends = [each.trajectory for group in groups for each in group.continuations]
    turns = [turn for sample in samples for turn in sample.episode.turns]
    scores = [level for sample in samples for level in sample.episode.levels]
    expected = [score for sample in samples for score in sample.episode.expected_scores]
    kept = sum(row.copies for row in rows if row.kind == "student")
    missing = sum(turn.score is not None and turn.score.level is None for turn in turns)
    return {
        "reward": _mean([s.reward for s in samples if s.episode.end_reason != "infrastructure"]),
        "em": _mean([sample.episode.exact_match or 0.0 for sample in samples]),
        "f1": _mean([sample.episode.f1 or 0.0 for sample in samples]),
        "acceptance": kept / len(samples) if samples else None,
        "score_mean": _mean(expected),
        "score_histogram": np.bincount(scores, minlength=score_levels).tolist()
        if scores
        else [0] * score_levels,
        "missing_scores": missing,
        "ends": dict(Counter(str(sample.episode.end_reason) for sample in samples)),
        "turns": len(turns) / max(1, len(samples)),
        "searches": sum(turn.kind == "search" for turn in turns),
        "invalid_actions": sum(turn.kind == "invalid" for turn in turns),
        "student_tokens": sum(sample.written_tokens for sample in samples),
        "teacher_tokens": sum(each.written_tokens for each in shown) + _taught(ends),
        "demonstrations": len(shown),
        "demonstrated": list(dict.fromkeys(each.episode.task.id for each in [*shown, *ends])),
    }


def truth_of_accepted(judged: Sequence[Judged]) -> dict[str, Any]:
    """How many samples a judge accepted, and the true exact match of these; None without any."""
    matches = [each.sample.episode.exact_match or 0.0 for each in judged if each.accepted]
    return {"accepted_samples": len(matches), "accepted_em": _mean(matches)}


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _taught(ends: Sequence[Trajectory]) -> int:
    """Tokens that the teacher wrote in continuations; of equal ones once."""
    once = {tuple(each.ids): each for each in ends}.values()
    return sum(span.end - span.start for each in once for span in each.by("teacher"))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
