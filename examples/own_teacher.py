"""A teacher of your own: it looks for the right answer in the passages, and no further.

    cd examples
    ovd train --teacher own_teacher:AnswerInPassages --teacher.patience 1 --out ../runs/own_teacher

A teacher judges steps (`score`), and it may demonstrate (`act`). A dataclass is its own options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_envs import Episode, ScoreRequest, VerbalScore
from ovd_envs.grammar import tagged
from retrieval_index.mentions import mentions


@dataclass(frozen=True)
class AnswerInPassages:
    """Good: a search that brings the right answer, and the right answer itself."""

    patience: int = 1
    """Searches that it shows before it answers."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> VerbalScore:
        turn, best = request.turn, request.levels - 1
        if turn.kind == "answer":
            good, why = bool(request.episode.exact_match), "the answer"
        elif turn.kind == "search":
            found = " ".join(document.text for document in turn.documents)
            good, why = mentions(found, request.episode.task.answers), "what the search brought"
        else:
            good, why = False, f"a step of kind {turn.kind}"
        level = best if good else 0
        return VerbalScore(level, float(level), why, "answer in passages")

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        return [self._action(episode) for episode in episodes]

    def _action(self, episode: Episode) -> str:
        if len(episode.turns) < self.patience:
            return tagged("search", episode.task.prompt)
        return tagged("answer", episode.task.answers[0])
