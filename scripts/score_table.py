"""Do the oracle's scores tell good episodes from bad ones? Plays both kinds and prints tables.

Each episode is the oracle's play, of which a share between none and nine tenths is spoilt. A
correct answer that follows bad steps, or that was guessed, is meant to score low.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ovd_envs.agreement import Agreement, agreement
from ovd_envs.make import make_scenario
from ovd_envs.players import careless, mixed, play

SPOILT = (0.0, 0.1, 0.25, 0.5, 0.9)


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


def main(
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0", "both"] = "both",
    count: int = 600,
    world_seed: int = 0,
    seed: int = 0,
) -> None:
    """Play `count` spoilt episodes of each environment and print how their scores agree with
    correctness. `world_seed` makes the tasks, `seed` chooses what is spoilt."""
    for env_id in ("ovd/WebQA-v0", "ovd/Math-v0") if env == "both" else (env,):
        scenario, tasks = make_scenario(env_id, count=count, world_seed=world_seed)
        player = mixed(*(careless(scenario, share) for share in SPOILT))
        result = agreement(play(scenario, tasks, player, seed))
        title = f"{env_id}: {len(tasks)} tasks, world seed {world_seed}, play seed {seed}"
        Console().print(score_table(title, result))


if __name__ == "__main__":
    tyro.cli(main)
