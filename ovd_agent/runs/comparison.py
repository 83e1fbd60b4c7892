"""Arms over paired seeds: the difference of exact match with an interval, and a verdict.

A verdict is Student's t over the paired differences of the seeds, on the questions that were asked.
The bootstrap over questions shows how much of the difference depends on which ones these were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovd_envs.errors import OptionError

Floats = NDArray[np.float64]
Verdict = Literal["higher", "lower", "tie", "undecided"]

TIE = 0.03
"""Arms tie where the whole interval lies closer to zero than this."""
LEVEL = 0.90
DRAWS = 10_000
MIN_SEEDS = 3
"""With fewer, no difference is decided: the spread between seeds is hardly known."""
COLLAPSED = 0.05
_CHUNK = 1000

LEDGER = (
    *("updates", "optimizer_steps", "student_tokens", "teacher_tokens", "score_calls"),
    *("demonstrations", "distinct_demonstrations", "trained_tokens", "seconds"),
    "peak_memory_mb",
)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: what comparisons read of it.

    `grades` are the exact matches of the held-out questions and `hops` their reasoning steps, by
    ids; both are empty where an older record lacks them. `acceptance` is by update, empty for a run
    that samples nothing to accept. `collapsed`: it never learned, or lost half of what it had.
    """

    seed: int
    em: float
    collapsed: bool = False
    grades: Mapping[str, float] = field(default_factory=dict[str, float])
    hops: Mapping[str, int] = field(default_factory=dict[str, int])
    ledger: Mapping[str, float] = field(default_factory=dict[str, float])
    acceptance: tuple[float, ...] = ()

    @property
    def em_by_hops(self) -> dict[int, float]:
        """Exact match of the questions of each number of hops."""
        by_hops: dict[int, list[float]] = {}
        for name, grade in self.grades.items():
            by_hops.setdefault(self.hops[name], []).append(grade)
        return {hops: float(np.mean(by_hops[hops])) for hops in sorted(by_hops)}


Arms = Mapping[str, Sequence[Run]]


def collapsed(em: float, evaluations: Sequence[float]) -> bool:
    """`evaluations` are the exact matches during training."""
    return em < COLLAPSED or em < max(evaluations, default=0.0) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Of an arm's exact match to the baseline's: mean and interval over seeds.

    `questions` is the bootstrap interval of the mean over questions, None where a record has no
    grades.
    """

    mean: float
    low: float
    high: float
    seeds: int
    questions: tuple[float, float] | None = None

    @property
    def verdict(self) -> Verdict:
        if self.seeds < MIN_SEEDS:
            return "undecided"
        if self.low > -TIE and self.high < TIE:
            return "tie"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "undecided"


def differences(arms: Arms, baseline: str) -> dict[str, Difference]:
    """Of every arm to the baseline. Raises OptionError where runs cannot be paired."""
    if baseline not in arms:
        raise OptionError(f"baseline={baseline!r}: expected one of {', '.join(arms)}")
    base = arms[baseline]
    return {name: difference(runs, base) for name, runs in arms.items() if name != baseline}


def difference(arm: Sequence[Run], baseline: Sequence[Run]) -> Difference:
    """The paired difference of two arms. Raises OptionError where seeds or questions differ."""
    if [run.seed for run in arm] != [run.seed for run in baseline]:
        raise OptionError(
            f"arms with the seeds {[run.seed for run in arm]} and"
            f" {[run.seed for run in baseline]} are not paired"
        )
    paired = np.array([run.em - other.em for run, other in zip(arm, baseline, strict=True)])
    mean, low, high = interval(paired)
    if not all(run.grades for run in (*arm, *baseline)):
        return Difference(mean, low, high, len(paired))
    questions = bootstrap((grades(arm) - grades(baseline)).mean(axis=0))
    return Difference(mean, low, high, len(paired), questions)


def interval(paired: Floats) -> tuple[float, float, float]:
    """The mean of the seeds' differences, and its interval by Student's t."""
    mean, count = float(paired.mean()), len(paired)
    if count < 2:
        return mean, -np.inf, np.inf
    from scipy.stats import t

    reach = float(t.ppf((1 + LEVEL) / 2, count - 1)) * float(paired.std(ddof=1)) / count**0.5
    return mean, mean - reach, mean + reach


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


def bootstrap(
    by_question: Floats, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """The interval of a mean over questions, drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(by_question)
    chance = np.full(count, 1 / count)
    means = np.concatenate(
        [
            rng.multinomial(count, chance, size=min(_CHUNK, draws - start)) @ by_question / count
            for start in range(0, draws, _CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high
