"""Scripted players of several strengths: to watch, to test with, and to see what scores say.

A player gives the next action of each running episode, as a teacher's `act` does. `careless`
corrupts a share of the oracle's actions: wrong queries, wrong answers, misread facts, false
equations, repeats, guesses, malformed text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from ovd_envs.episode import Episode, Task
from ovd_envs.errors import OptionError
from ovd_envs.grading.equations import find_equations
from ovd_envs.scenario import Scenario
from ovd_envs.teachers.base import Demonstrator
from ovd_envs.teachers.rubrics import QUESTION

Player = Callable[[Sequence[Episode], random.Random], list[str]]


def play(scenario: Scenario, tasks: Sequence[Task], player: Player, seed: int = 0) -> list[Episode]:
    """Play one episode of each task. The seed decides what a player leaves to chance."""
    rng = random.Random(f"play {seed}")
    episodes = scenario.begin(tasks)
    while running := [episode for episode in episodes if not episode.done]:
        scenario.advance(running, player(running, rng))
    return episodes


def oracle(scenario: Scenario) -> Player:
    """The scenario's own teacher."""
    teacher = scenario.teacher
    if not isinstance(teacher, Demonstrator):
        raise OptionError("the oracle player needs a teacher with act(episodes)")
    return lambda episodes, rng: teacher.act(episodes)


def careless(scenario: Scenario, share: float) -> Player:
    """The teacher's play with a share of its actions corrupted."""
    right = oracle(scenario)

    def act(episodes: Sequence[Episode], rng: random.Random) -> list[str]:
        return [
            rng.choice(CORRUPTIONS)(episode, action, rng.choice(episodes), rng)
            if rng.random() < share
            else action
            for episode, action in zip(episodes, right(episodes, rng), strict=True)
        ]

    return act


def mixed(*players: Player) -> Player:
    """Each episode has one of the players, which one its task decides."""

    def act(episodes: Sequence[Episode], rng: random.Random) -> list[str]:
        chosen = [hash_of(episode.task) % len(players) for episode in episodes]
        groups = [
            [episode for episode, own in zip(episodes, chosen, strict=True) if own == index]
            for index in range(len(players))
        ]
        actions = [
            iter(player(group, rng) if group else ())
            for player, group in zip(players, groups, strict=True)
        ]
        return [next(actions[own]) for own in chosen]

    return act


def hash_of(task: Task) -> int:
    """A number that depends on the task alone."""
    return random.Random(task.id).getrandbits(32)


def lazy(episodes: Sequence[Episode], rng: random.Random) -> list[str]:
    """Searches once, for the question as it stands, and answers with the end of the first passage;
    in mathematics, adds the first two numbers."""
    return [_lazy(episode) for episode in episodes]


def _lazy(episode: Episode) -> str:
    if episode.rubric != QUESTION:
        numbers = re.findall(r"\d+", episode.task.prompt)[:2]
        return f"<answer>{sum(map(int, numbers))}</answer>"
    if not episode.turns:
        return f"<search>{episode.task.prompt}</search>"
    documents = episode.turns[-1].documents
    said = documents[0].text if documents else "nothing"
    return f"<answer>{re.split(r' (?:is|in|by|for|with) ', said)[-1].rstrip('.')}</answer>"


_FORMS = ("{}", "<think>{}</think>", "<search>{}</search>", "<answer>{}</answer>")


def at_random(episodes: Sequence[Episode], rng: random.Random) -> list[str]:
    """Words from what it has seen, in tags that fit or do not."""
    return [_at_random(episode, rng) for episode in episodes]


def _at_random(episode: Episode, rng: random.Random) -> str:
    seen = episode.turns[-1].observation if episode.turns else episode.task.prompt
    words = re.findall(r"[\w+-]+", seen) or ["nothing"]
    said = " ".join(rng.choice(words) for _ in range(rng.randint(1, 3)))
    return rng.choice(_FORMS).format(said)


Corruption = Callable[[Episode, str, Episode, random.Random], str]


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


CORRUPTIONS: tuple[Corruption, ...] = (_malformed, _repeat, _idle, _wrong, _misread, _guess, _hasty)
