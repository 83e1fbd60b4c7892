"""A rule-based teacher that sees the gold passages, the answers and the worked solutions.

Its rubrics, on the scale 0..9, are in `questions` and `problems`. For v levels a level is scaled to
round(level * (v - 1) / 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ovd_envs.episode import Episode, VerbalScore
from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import GroupRequest, GroupVerdict, ScoreRequest, TeacherContext
from ovd_envs.teachers.oracle.criteria import rate_group
from ovd_envs.teachers.oracle.problems import judge_problem, reason
from ovd_envs.teachers.oracle.questions import Lookup, judge_question, search_or_answer
from ovd_envs.teachers.oracle.thoughts import Verdict
from ovd_envs.teachers.rubrics import PROBLEM, QUESTION

SOURCE = "oracle"
RULES: dict[str, Callable[[ScoreRequest], Verdict]] = {
    QUESTION: judge_question,
    PROBLEM: judge_problem,
}
"""By rubric."""


@dataclass(frozen=True)
class OracleOptions:
    """Rules that see the gold passages, the answers and the worked solutions."""

    thinks_aloud: bool = True
    """Demonstrations of questions begin with a plan; otherwise they are bare searches and answers,
    which are fewer tokens for a small student to learn."""
    judges_plans: bool = True
    """A search whose thought plans other hops than the question has scores 2 at most; otherwise a
    search is judged by what it asks and brings alone."""


def build(options: OracleOptions, context: TeacherContext) -> OracleTeacher:
    """Raises OptionError where the oracle has no rules for the environment."""
    _rules_of(context.rubric, context.env)
    # An index can look gold passages up by id, which tells the oracle what to search for.
    lookup = getattr(context.search, "get", None)
    return OracleTeacher(
        lookup,
        context.max_turns,
        thinks_aloud=options.thinks_aloud,
        judges_plans=options.judges_plans,
    )


class OracleTeacher:
    """Scores by its rules, and plays without fault as far as the search engine allows.

    `lookup` gives passages by id, such as the `get` of a PassageIndex: it lets the oracle search
    for gold passages by title where a task has no chain of queries. `max_turns`, the scenario's,
    makes it answer on the last turn at the latest.
    """

    def __init__(
        self,
        lookup: Lookup | None = None,
        max_turns: int | None = None,
        *,
        thinks_aloud: bool = True,
        judges_plans: bool = True,
    ) -> None:
        self.lookup = lookup
        self.max_turns = max_turns
        self.options = OracleOptions(thinks_aloud, judges_plans)

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        return [self._score(request) for request in requests]

    def rate(self, requests: Sequence[GroupRequest]) -> list[GroupVerdict | None]:
        return [rate_group(request) for request in requests]

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        return [self._action(episode) for episode in episodes]

    def _action(self, episode: Episode) -> str:
        left = math.inf if self.max_turns is None else self.max_turns - len(episode.turns)
        if episode.rubric == QUESTION:
            aloud = self.options.thinks_aloud
            return search_or_answer(episode, left, self.lookup, thinks_aloud=aloud)
        _rules_of(episode.rubric, f"task {episode.task.id!r}")
        return reason(episode, left, self.max_turns)

    def _score(self, request: ScoreRequest) -> VerbalScore:
        episode = request.episode
        if request.turn.kind == "invalid":
            level, why = 0, f"Invalid action: {request.turn.content}."
        elif episode.rubric == QUESTION:
            level, why = judge_question(request, judges_plans=self.options.judges_plans)
        else:
            level, why = _rules_of(episode.rubric, f"task {episode.task.id!r}")(request)
        level = round(level * (request.levels - 1) / 9)
        return VerbalScore(level, float(level), why, SOURCE)


def _rules_of(rubric: str, whose: str) -> Callable[[ScoreRequest], Verdict]:
    if rubric not in RULES:
        raise OptionError(
            f"the oracle has no rules for the rubric {rubric!r} of {whose} (it has"
            f" {', '.join(RULES)}): give another teacher, or None"
        )
    return RULES[rubric]
