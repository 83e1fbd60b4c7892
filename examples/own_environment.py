"""An environment of your own: guess a number, with "higher" or "lower" after every guess.

    cd examples
    ovd train --env own_environment:me/Guess-v0 --student smollm2 --out ../runs/guess
    ovd train --env own_environment:me/Guess-v0 --env.largest 9 --help

Registered like this, it also works in `gymnasium.make("own_environment:me/Guess-v0")`, in
`make_vec` (batched), and in `ovd evaluate`, `play` and `compare`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovd_envs import (
    Episode,
    Grade,
    Options,
    Response,
    Scenario,
    ScoreRequest,
    Task,
    VerbalScore,
    register,
)
from ovd_envs.errors import OptionError
from ovd_envs.grammar import Action, render_error
from ovd_envs.teachers import make_teacher
from ovd_envs.teachers.base import TeacherContext

ENV_ID = "me/Guess-v0"
PROMPT = (
    "Find the number between 0 and {largest}. Guess with <think>number</think>; when you know it,"
    " write <answer>number</answer>.\n"
)


@dataclass(frozen=True, kw_only=True)
class GuessOptions(Options):
    """Guess a number."""

    teacher: Any = f"{__name__}:BinarySearch"
    """Who scores each step: a name, module:Class, or an object; None for no scores."""
    max_turns: int = 8
    """An episode is truncated after this many turns."""
    count: int = 50
    """Number of tasks."""
    largest: int = 99
    """Numbers run from 0 to this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest < 1:
            raise OptionError(f"largest={self.largest}: expected at least 1")


class Guess(Scenario):
    """What has been guessed stands in the episode, so a scenario keeps no state."""

    stop_strings = ("</think>", "</answer>")
    rubric = "guess"

    def prompt(self, task: Task) -> str:
        return PROMPT.format(largest=task.metadata["largest"])

    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        return [hint(episode, action) for episode, action in zip(episodes, actions, strict=True)]

    def grade(self, task: Task, answer: str) -> Grade:
        right = float(answer.strip() in task.answers)
        return Grade(right, right)


def hint(episode: Episode, action: Action) -> Response:
    """What the environment says to one action."""
    secret = int(episode.task.answers[0])
    if action.kind == "answer":
        return Response()
    if action.kind != "think" or not action.content.strip().isdigit():
        return Response(render_error("expected a number", "Write <think>number</think>."))
    guess = int(action.content)
    said = "right" if guess == secret else "higher" if guess < secret else "lower"
    return Response(f"\n{said}\n")


class BinarySearch:
    """The teacher: scores a guess by what it rules out, and halves what is left itself."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> VerbalScore:
        turn, best = request.turn, request.levels - 1
        if turn.kind == "answer":
            level, why = (best, "right") if request.episode.exact_match else (0, "wrong")
        elif turn.kind != "think" or not turn.content.strip().isdigit():
            level, why = 0, "no guess"
        else:
            low, high = bounds(request.episode, request.index)
            inside = low <= int(turn.content) <= high
            level, why = (best, "rules numbers out") if inside else (best // 3, "was ruled out")
        return VerbalScore(level, float(level), why, "binary search")

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        actions: list[str] = []
        for episode in episodes:
            low, high = bounds(episode, len(episode.turns))
            tag = "answer" if low == high else "think"
            actions.append(f"<{tag}>{(low + high) // 2}</{tag}>")
        return actions


def bounds(episode: Episode, turn: int) -> tuple[int, int]:
    """What the hints before `turn` leave."""
    low, high = 0, int(episode.task.metadata["largest"])
    for played in episode.turns[:turn]:
        if played.kind != "think" or not played.content.strip().isdigit():
            continue
        guess, said = int(played.content), played.observation.strip()
        if said == "right":
            return guess, guess
        low, high = (max(low, guess + 1), high) if said == "higher" else (low, min(high, guess - 1))
    return low, high


def build(options: GuessOptions) -> tuple[Guess, Sequence[Task]]:
    """The scenario and its tasks; a split is another seed."""
    rng = random.Random(options.split)
    secrets = [rng.randint(0, options.largest) for _ in range(options.count)]
    tasks = [
        Task(f"guess-{options.split}-{n}", "Which number?", (str(secret),), 1, (), metadata)
        for n, secret in enumerate(secrets)
        for metadata in [{"largest": options.largest}]
    ]
    context = TeacherContext(ENV_ID, Guess.rubric, options.max_turns, options.score_levels)
    return Guess(options, make_teacher(options.teacher, context)), tasks


register(ENV_ID, scenario=build, options=GuessOptions)
