"""What an environment needs of a teacher: it judges steps, and it may demonstrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ovd_envs.episode import Episode, Turn, VerbalScore
from ovd_envs.search.base import SearchEngine


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Judge turn `index` of `episode` on the scale 0..levels-1 (later turns are not looked at).

    `episode.rubric` names what makes a step of its scenario good.
    """

    episode: Episode
    index: int
    levels: int = 10

    @property
    def turn(self) -> Turn:
        return self.episode.turns[self.index]


@runtime_checkable
class Judge(Protocol):
    """Scores steps: one score for each request, in order. A step that it cannot judge gets
    `VerbalScore.missing`."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]: ...


@runtime_checkable
class Demonstrator(Protocol):
    """Plays: gives the next action of each running episode, from wherever it stands.

    `Scenario.play_on` carries the actions out.
    """

    def act(self, episodes: Sequence[Episode]) -> list[str]: ...


@runtime_checkable
class Teacher(Judge, Demonstrator, Protocol):
    """A judge that also demonstrates."""


@dataclass(frozen=True, slots=True)
class TeacherContext:
    """The environment that a teacher is built for."""

    env: str
    rubric: str
    max_turns: int
    score_levels: int
    search: SearchEngine | None = None
