"""Do the oracle's scores tell good episodes from bad ones? Plays both kinds and prints tables.

The oracle plays each task; a part of its actions, different from episode to episode, is spoilt:
wrong queries, wrong answers, misread facts, false equations, repeats, guesses, malformed text.
A correct answer that follows bad steps, or that was guessed, is meant to score low.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ovd_envs.episode import Episode
from ovd_envs.make import make_scenario
from ovd_envs.mathematics import find_equations
from ovd_envs.scenario import Scenario

SPOILT = (0.0, 0.1, 0.25, 0.5, 0.9)
"""Shares of spoilt actions; each episode has one of them."""

Spoiler = Callable[[Episode, str, Episode, random.Random], str]


def play(scenario: Scenario, tasks: Sequence[Any], seed: int = 0) -> list[Episode]:
    """Oracle play of the tasks in which a part of the actions is spoilt."""
    assert scenario.teacher is not None
    rng = random.Random(seed)
    episodes = scenario.begin(tasks)
    shares = [rng.choice(SPOILT) for _ in episodes]
    while running := [index for index, episode in enumerate(episodes) if not episode.done]:
        playing = [episodes[index] for index in running]
        actions = scenario.teacher.act(playing)
        for place, index in enumerate(running):
            if rng.random() < shares[index]:
                spoil = rng.choice(SPOILERS)
                other = rng.choice(episodes)
                actions[place] = spoil(episodes[index], actions[place], other, rng)
        scenario.advance(playing, actions)
    return episodes


def _malformed(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    return action.replace("</", "<", 1)


def _repeat(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    return episode.turns[-1].action if episode.turns else action


def _idle(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    return "<think>Let me think about it.</think>"


def _wrong(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    """A query or answer of another task, or a false result."""
    if "<search>" in action:
        return f"<search>{other.task.prompt}</search>"
    equations = find_equations(action)
    if equations:
        result = str(equations[-1].result)
        return action.replace(f"={result}", f"={int(equations[-1].result) + rng.randint(1, 9)}")
    return f"<answer>{other.task.answers[0]}</answer>"


def _misread(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    """A fact of the chain with the value of another task, and a search or answer that follows."""
    for link in episode.task.metadata.get("chain", ()):
        if f"{link['query']} is {link['answer']}" in action:
            return action.replace(link["answer"], other.task.answers[0])
    return action


def _guess(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    answer = rng.choice((episode, other)).task.answers[0]
    return f"<answer>{answer}</answer>"


def _hasty(episode: Episode, action: str, other: Episode, rng: random.Random) -> str:
    """A later step, perhaps by another route, or a search for a later fact or a bare entity."""
    if steps := episode.task.metadata.get("steps"):
        result = rng.choice(steps).rpartition("=")[2]
        return f"<think>{rng.choice((steps[-1], f'{result}+0={result}'))}</think>"
    chain = episode.task.metadata.get("chain", [{"query": episode.task.prompt}])
    query = rng.choice((chain[-1]["query"], chain[0]["query"].partition(" of ")[2] + " history"))
    return f"<search>{query}</search>"


SPOILERS: tuple[Spoiler, ...] = (_malformed, _repeat, _idle, _wrong, _misread, _guess, _hasty)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How scores and final correctness go together.

    `means` and `correct` are of the episodes; `steps` counts steps by their score, `right` those
    of them whose episode ended correct. `auc` is the chance that a correct episode has the higher
    mean score of a correct and an incorrect one.
    """

    means: NDArray[np.float64]
    correct: NDArray[np.bool_]
    steps: list[int]
    right: list[int]
    spearman: float
    auc: float


def agreement(episodes: Sequence[Episode], score_levels: int = 10) -> Agreement:
    scores = [
        [turn.score.level for turn in episode.turns if turn.score and turn.score.level is not None]
        for episode in episodes
    ]
    correct = np.array([bool(episode.exact_match) for episode in episodes])
    steps = Counter(level for levels in scores for level in levels)
    right = Counter(level for levels, good in zip(scores, correct) if good for level in levels)
    means = np.array([np.mean(levels) for levels in scores], dtype=np.float64)
    ranks = _ranks(means)
    positive, negative = int(correct.sum()), int((~correct).sum())
    above = ranks[correct].sum() - positive * (positive + 1) / 2
    return Agreement(
        means,
        correct,
        [steps[level] for level in range(score_levels)],
        [right[level] for level in range(score_levels)],
        spearman=float(np.corrcoef(ranks, _ranks(correct.astype(np.float64)))[0, 1]),
        auc=float(above / (positive * negative)) if positive and negative else float("nan"),
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _table(title: str, result: Agreement) -> Table:
    """A row for each score: steps that got it, and episodes whose mean rounds to it."""
    table = Table(title=title)
    for heading in ("score", "steps", "finally correct", "episodes (mean score)", "correct"):
        table.add_column(heading, justify="right")
    rounded = np.floor(result.means + 0.5)
    for score, (steps, right) in enumerate(zip(result.steps, result.right)):
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
        title = f"{env_id}: {len(tasks)} tasks, world seed {world_seed}, play seed {seed}"
        Console().print(_table(title, agreement(play(scenario, tasks, seed))))


if __name__ == "__main__":
    tyro.cli(main)
