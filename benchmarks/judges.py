"""Judges that know nothing of what they judge, as controls of benchmarks/plans/one_sample.toml."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ovd_envs.episode import VerbalScore
from ovd_envs.teachers.base import ScoreRequest


class Readable:
    """The best score for an action that can be read, else the worst."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        return [
            given(0 if request.turn.kind == "invalid" else request.levels - 1)
            for request in requests
        ]


class Dice:
    """Any score, by the step alone: the same step is always given the same."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        found: list[VerbalScore] = []
        for request in requests:
            episode = request.episode
            said = [turn.action for turn in episode.turns[: request.index + 1]]
            rolled = random.Random(repr((episode.task.id, episode.seed, said)))
            found.append(given(rolled.randrange(request.levels)))
        return found


def given(level: int) -> VerbalScore:
    return VerbalScore(level, float(level), source="control")
