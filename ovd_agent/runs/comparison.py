"""Runs of several arms over paired seeds: differences with intervals, and a word for each.

Statistics: a two-level bootstrap (seeds, then questions) of the paired difference of exact match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovd_agent.runs.folder import read_run
from ovd_envs.errors import OptionError

Floats = NDArray[np.float64]
Verdict = Literal["higher", "lower", "tie", "undecided"]

TIE = 0.03
"""Arms tie where the whole interval lies closer to zero than this."""
LEVEL = 0.90
DRAWS = 10_000
MIN_SEEDS = 3
"""With fewer, no difference is decided: the spread between seeds is not known."""
COLLAPSED = 0.05
_CHUNK = 1000

LEDGER = (
    *("updates", "optimizer_steps", "student_tokens", "teacher_tokens", "score_calls"),
    *("demonstrations", "trained_tokens", "seconds"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: `grades` are the exact matches of the held-out questions, by their ids."""

    seed: int
    grades: Mapping[str, float]
    evaluations: tuple[float, ...]
    """Exact match at each evaluation, the last one after training."""
    ledger: Mapping[str, float]
    acceptance: tuple[float, ...]
    """By update; empty for a run that samples nothing to accept."""

    @property
    def em(self) -> float:
        return float(np.mean(list(self.grades.values())))

    @property
    def collapsed(self) -> bool:
        """Never learned, or lost half of what it had."""
        return self.em < COLLAPSED or self.em < max(self.evaluations) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Of an arm's exact match to the baseline's: mean, interval, and what may be said."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> Verdict:
        if self.seeds < MIN_SEEDS:
            return "undecided"
        if self.low > -TIE and self.high < TIE:
            return "tie"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "undecided"


def read_arm(folder: Path) -> Run:
    """A finished run of `ovd train`. Raises OptionError where it is not finished."""
    run = read_run(folder)
    shares = run.summary["acceptance"]
    return Run(
        seed=int(run.summary["seed"]),
        grades={episode.task.id: episode.exact_match or 0.0 for episode in run.after},
        evaluations=tuple(float(line["em"]) for line in run.evaluations),
        ledger={name: float(run.summary[name]) for name in LEDGER},
        acceptance=tuple(share for share in shares if share is not None),
    )


def grades(runs: Sequence[Run]) -> Floats:
    """Exact match [seeds, questions]. Raises OptionError where runs had different questions."""
    ids = list(runs[0].grades)
    for run in runs:
        if list(run.grades) != ids:
            raise OptionError(
                f"seed {run.seed} was evaluated on other questions than seed {runs[0].seed}: give"
                " all runs the same world and eval_count"
            )
    return np.array([[run.grades[name] for name in ids] for run in runs])


def acceptance(runs: Sequence[Run]) -> list[float]:
    """α by update, the mean over runs; as long as the shortest of them. Empty where nothing is
    rejected by any: GRPO trains on all that it samples, which is no acceptance to draw."""
    if all(share == 1 for run in runs for share in run.acceptance):
        return []
    shortest = min(len(run.acceptance) for run in runs)
    return np.mean([run.acceptance[:shortest] for run in runs], axis=0).tolist()


def difference(arm: Floats, baseline: Floats, *, draws: int = DRAWS, seed: int = 0) -> Difference:
    """The paired difference of two arms, both [seeds, questions], with its bootstrap interval.

    Seeds and questions are drawn with replacement, each question at once for all seeds, since all
    seeds were asked the same ones.
    """
    if arm.shape != baseline.shape:
        raise OptionError(f"arms of shapes {arm.shape} and {baseline.shape} are not paired")
    paired = arm - baseline
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [_drawn(paired, min(_CHUNK, draws - start), rng) for start in range(0, draws, _CHUNK)]
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    return Difference(float(paired.mean()), low, high, len(paired))


def _drawn(paired: Floats, count: int, rng: np.random.Generator) -> Floats:
    seeds, questions = paired.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
    by_question = rng.multinomial(questions, np.full(questions, 1 / questions), size=count)
    return ((by_seed @ paired) * by_question).sum(axis=1) / questions
