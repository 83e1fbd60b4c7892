"""What an environment needs of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ovd_envs.episode import Episode, Turn, VerbalScore


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Judge turn `index` of `episode` on the scale 0..levels-1 (later turns are not looked at)."""

    episode: Episode
    index: int
    levels: int = 10

    @property
    def turn(self) -> Turn:
        return self.episode.turns[self.index]


@runtime_checkable
class Teacher(Protocol):
    """Scores steps, and acts itself when a demonstration is wanted.

    `score` answers each request in order; one that it cannot judge gets `VerbalScore.missing`.
    `act` gives the next action of each running episode: `Scenario.demonstrate` plays them.
    """

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]: ...

    def act(self, episodes: Sequence[Episode]) -> list[str]: ...
