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


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Rate `episodes` of one task by criteria that are written for it, in view of them and of
    `references`, the teacher's own episodes."""

    episodes: Sequence[Episode]
    references: Sequence[Episode] = ()


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a good episode does, and what that is worth, in points."""

    text: str
    points: float


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """The criteria of a task. For each episode, in order, `fulfilled` has the turn that fulfils
    each criterion (None: no turn does), or None where the episode could not be judged."""

    criteria: tuple[Criterion, ...]
    fulfilled: tuple[tuple[int | None, ...] | None, ...]

    def gains(self, episode: int, turns: int) -> list[float] | None:
        """The share of all points that each turn of an episode earns; their sum is its rating."""
        fulfilled = self.fulfilled[episode]
        if fulfilled is None:
            return None
        found = [0.0] * turns
        total = sum(criterion.points for criterion in self.criteria)
        for criterion, turn in zip(self.criteria, fulfilled, strict=True):
            if turn is not None:
                found[turn] += criterion.points / total
        return found


@runtime_checkable
class GroupJudge(Protocol):
    """Rates the episodes of a task together: one verdict for each request, in order, None where it
    has none."""

    def rate(self, requests: Sequence[GroupRequest]) -> list[GroupVerdict | None]: ...


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
