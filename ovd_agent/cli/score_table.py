"""Do the oracle's scores tell good episodes from bad ones? Plays both kinds and prints tables.

Each episode is the oracle's play, with a share of its actions, up to nine tenths, corrupted. A
correct answer that follows bad steps, or that was guessed, is meant to score low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ovd_envs.calibration.agreement import Agreement, agreement
from ovd_envs.calibration.calibrate import CORRUPTED
from ovd_envs.calibration.players import careless, mixed, play
from ovd_envs.registry import make_scenario
from ovd_envs.scenarios import MATH, WEBQA


def score_table(title: str, result: Agreement) -> Table:
    """A row for each score: steps that got it, and episodes whose mean rounds to it."""
    table = Table(title=title)
    for heading in ("score", "steps", "finally correct", "episodes (mean score)", "correct"):
        table.add_column(heading, justify="right")
    rounded = np.floor(result.means + 0.5)
    for score, (steps, right) in enumerate(zip(result.steps, result.right, strict=True)):
        inside = rounded == score
        episodes, good = int(inside.sum()), int(result.correct[inside].sum())
        cells = (steps, _share(right, steps), episodes, _share(good, episodes))
        table.add_row(str(score), *map(str, cells))
    table.add_section()
    steps, episodes = sum(result.steps), len(result.means)
    good = _share(int(result.correct.sum()), episodes)
    table.add_row("all", str(steps), _share(sum(result.right), steps), str(episodes), good)
    table.caption = (
        "mean score of an episode against its correctness:\n"
        f"Spearman {result.spearman:.2f}, AUC {result.auc:.2f}"
    )
    return table


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


@dataclass(frozen=True)
class Options:
    """Play corrupted episodes and print how their scores agree with correctness."""

    envs: tuple[str, ...] = (WEBQA, MATH)
    count: int = 600
    """Episodes of each environment."""
    world_seed: int = 0
    """Which tasks."""
    seed: int = 0
    """What is corrupted."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    world, seed = options.world_seed, options.seed
    for env_id in options.envs:
        scenario, tasks = make_scenario(env_id, count=options.count, world_seed=world)
        player = mixed(*(careless(scenario, share) for share in CORRUPTED))
        result = agreement(play(scenario, tasks, player, seed))
        title = f"{env_id}: {len(tasks)} tasks, world seed {world}, play seed {seed}"
        Console().print(score_table(title, result))
    return 0
