"""How many score levels are worth having? Scores of the oracle and of Qwen, coarsened.

    python benchmarks/levels.py runs/a/episodes_after.jsonl runs/b/episodes_after.jsonl

First the oracle: it scores every step of these students' episodes with v levels, and S(y) is the
mean, the least or the last of an episode's scores. AUC is the chance that of a right and a wrong
episode the right one has the higher S(y). "accepted" is the share with S(y) at least 7/9 of the
scale, "right" how many of these are. Its rules tell ten levels apart, so a finer v says the same in
other numbers.

Then a language model, from records of `ovd calibrate`: the digits that Qwen2.5-Coder-1.5B gave to
labelled steps, in v equal parts of its ten levels, beside its expected score over the digits. A
score of up to ten levels is one token of a language model, one of up to a hundred two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.calibration.agreement import area_under_curve
from ovd_envs.episode import Episode, read_episodes
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.oracle.teacher import OracleTeacher

LEVELS = (2, 3, 5, 10, 20, 100)
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda scores: sum(scores) / len(scores),
    "min": min,
    "last": lambda scores: scores[-1],
}
THRESHOLD = 7 / 9
COARSER = (2, 3, 5, 10)
CALIBRATIONS = {"SQuAD": "calibration_squad", "arithmetic": "calibration_math"}
"""Steps that Qwen scored on ten levels, and the name of the record."""


@dataclass(frozen=True)
class Options:
    """Score episodes with different numbers of levels."""

    episodes: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of episodes."""
    out: Path = RESULTS / "levels.json"


def scores_of(episodes: Sequence[Episode], levels: int) -> list[list[float]]:
    """The scores of each episode's steps, as shares of the best."""
    oracle = OracleTeacher()
    found: list[list[float]] = []
    for episode in episodes:
        requests = [ScoreRequest(episode, index, levels) for index in range(len(episode.turns))]
        given = [score.expected or 0.0 for score in oracle.score(requests)]
        found.append([each / (levels - 1) for each in given])
    return found


def row_of(episodes: Sequence[Episode], levels: int) -> dict[str, Any]:
    right = np.array([episode.exact_match == 1 for episode in episodes])
    answered = np.array([episode.answer is not None for episode in episodes])
    scores = scores_of(episodes, levels)
    row: dict[str, Any] = {"v": levels, "tokens": 1 if levels <= 10 else 2}
    for name, aggregate in AGGREGATES.items():
        worth = np.array([aggregate(each) if each else 0.0 for each in scores])
        worth = np.where(answered, worth, 0.0)  # an episode without an answer never passes
        accepted = worth >= THRESHOLD - 1e-9
        row[name] = {
            "auc": round(area_under_curve(worth, right), 4),
            "accepted": round(float(accepted.mean()), 4),
            "right": round(float(right[accepted].mean()), 4) if accepted.any() else None,
        }
    return row


def digits() -> list[dict[str, Any]]:
    """AUC of the digits that Qwen gave, by kind of step, coarsened."""
    found: list[dict[str, Any]] = []
    for said, name in CALIBRATIONS.items():
        kinds = json.loads((RESULTS / f"{name}.json").read_text())["kinds"]
        for kind in kinds:
            if not 0 < kind["good"] < sum(kind["levels"]):
                continue
            given = np.repeat(np.arange(10), kind["levels"])
            parts = zip(kind["levels"], kind["good_by_level"], strict=True)
            good = np.concatenate([[True] * good + [False] * (all_ - good) for all_, good in parts])
            found.append(
                {
                    "steps": f"{said}, {kind['kind']}",
                    "used": int(np.count_nonzero(kind["levels"])),
                    **{
                        f"auc_{v}": round(area_under_curve(given * v // 10 + 0.0, good == 1), 4)
                        for v in COARSER
                    },
                    "auc_expected": round(kind["auc"], 4),
                }
            )
    return found


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    episodes = [each for path in options.episodes for each in read_episodes(path)]
    rows = [row_of(episodes, levels) for levels in LEVELS]
    right = sum(episode.exact_match == 1 for episode in episodes) / len(episodes)
    files = [str(path) for path in options.episodes]
    head = {"files": files, "episodes": len(episodes), "right": round(right, 4)}
    judged = digits()
    record = {**surroundings(("numpy",)), **head, "oracle": rows, "qwen": judged}
    write_record(options.out, record)
    table = Table("v", "tokens", *(f"{name}: AUC, accepted, right" for name in AGGREGATES))
    for row in rows:
        cells = [
            f"{row[name]['auc']:.3f}, {row[name]['accepted']:.2f}, {row[name]['right'] or 0:.2f}"
            for name in AGGREGATES
        ]
        table.add_row(str(row["v"]), str(row["tokens"]), *cells)
    console = Console(width=120)
    console.print(f"{len(episodes)} episodes, {right:.2f} right", table)
    table = Table("Qwen's digits", "levels used", *(f"v = {v}" for v in COARSER), "expected score")
    for row in judged:
        areas = [row[f"auc_{v}"] for v in COARSER]
        cells = [f"{auc:.3f}" for auc in (*areas, row["auc_expected"])]
        table.add_row(row["steps"], str(row["used"]), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
