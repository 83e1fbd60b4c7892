"""A teacher behind any OpenAI-compatible server: vLLM, a hosted model, a closed one.

Nothing is made up: a score that does not come, or cannot be read, is missing and counted.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ovd_envs.episode import Episode, VerbalScore
from ovd_envs.errors import OptionError, TeacherUnavailable
from ovd_envs.llm.connection import Connection, NoAnswer, Reply, Server, Usage
from ovd_envs.llm.forms import Wish
from ovd_envs.teachers.base import (
    Criterion,
    GroupRequest,
    GroupVerdict,
    ScoreRequest,
    TeacherContext,
)
from ovd_envs.teachers.llm.criteria import (
    criteria_messages,
    read_criteria,
    read_verdict,
    verdict_messages,
)
from ovd_envs.teachers.llm.prompts import (
    VERSION,
    Messages,
    play_messages,
    score_messages,
    whole_action,
)
from retrieval_index.http import check_address

ScorePrompt = Callable[[ScoreRequest], Messages]

T = TypeVar("T")

_MOST_LEVELS = 10
_TRIES = 3
"""Samples of a reply that is not in its form."""
_CRITERIA_TOKENS = 500
_VERDICT_TOKENS = 8
"""For each criterion."""
_FEW = 30
"""Fewer scores than this say nothing about the share of missing ones."""
_RECENT = 200
"""The share of missing scores is that of this many latest ones, so that a teacher which fails late
is noticed."""
_TURN_ENDS = ("</search>", "</answer>")


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """A model behind an OpenAI-compatible server. The key is read from OPENAI_API_KEY."""

    model: str
    """The name under which the server knows it."""
    base_url: str = "http://127.0.0.1:8000/v1"
    shows_answer: bool = True
    """Whether the judge is told the right answer."""
    shows_plan: bool = False
    """Whether the judge of a search reads the thought before it, to turn down one that plans
    another question than the one that is asked."""
    concurrency: int = 16
    """Concurrent requests."""
    try_seconds: float = 30.0
    """Time limit of one request."""
    total_seconds: float = 120.0
    """Time limit of one score or action, all its tries included."""
    max_missing: float = 0.2
    """Stop the run when a larger share of the latest scores is missing."""
    cache: Path | None = None
    """A folder that keeps answers between runs."""
    score_tokens: int = 4
    """Tokens of a score. A model that reasons before it replies needs many more."""
    action_tokens: int = 160
    """Tokens of an action, when it demonstrates."""
    temperature: float = 0.7
    """Sampling temperature of actions in an episode whose seed is not 0: further tries of a
    demonstration."""

    def __post_init__(self) -> None:
        check_address(self.base_url, "base_url", OptionError)
        positive = ("concurrency", "try_seconds", "total_seconds", "score_tokens", "action_tokens")
        for name in positive:
            if getattr(self, name) <= 0:
                raise OptionError(f"{name}={getattr(self, name)}: expected more than 0")
        if not 0 <= self.max_missing <= 1:
            raise OptionError(f"max_missing={self.max_missing}: expected a share, 0 to 1")


def connect(options: LLMOptions) -> Connection:
    """A connection to the server that the options name."""
    server = Server(
        options.model,
        options.base_url,
        options.concurrency,
        options.try_seconds,
        options.total_seconds,
    )
    return Connection(server, os.environ.get("OPENAI_API_KEY"), options.cache, VERSION)


def build(options: LLMOptions, context: TeacherContext) -> LLMTeacher:
    """Raises OptionError where the environment asks for more levels than one digit has."""
    check_levels(context)
    return LLMTeacher(options)


def check_levels(context: TeacherContext) -> None:
    if context.score_levels > _MOST_LEVELS:
        raise OptionError(
            f"score_levels={context.score_levels}: a language model scores at most {_MOST_LEVELS}"
        )


class LLMTeacher:
    """A `Teacher`: a model that scores steps by a rubric, and demonstrates by playing itself."""

    def __init__(self, options: LLMOptions, prompt: ScorePrompt | None = None) -> None:
        """`prompt` words the question for a score, where ours does not suit. Raises OptionError
        where a package is not installed."""
        for package in ("httpx", "diskcache"):
            if importlib.util.find_spec(package) is None:
                raise OptionError(f'a language model as teacher needs {package}: "ovd[teacher]"')
        self.options = options
        self._prompt = prompt or partial(
            score_messages, shows_answer=options.shows_answer, shows_plan=options.shows_plan
        )
        self._connection = connect(options)
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        """Of the latest scores, whether each was missing."""

    @property
    def usage(self) -> Usage:
        """What was asked since this teacher was made."""
        return self._connection.usage

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by its options: the other process has a client of its own."""
        return LLMTeacher, (self.options, self._prompt)

    def __deepcopy__(self, memo: object) -> LLMTeacher:
        return self

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        """One score for each request, many at a time. Raises TeacherUnavailable where the server
        refuses for good, or where too many scores are missing."""
        scores = self._connection.run([self._score(request) for request in requests])
        with self._lock:
            self.usage.scores += len(scores)
            self.usage.missing += sum(score.level is None for score in scores)
            self._recent.extend(score.level is None for score in scores)
            asked, missing = len(self._recent), sum(self._recent)
        if asked >= _FEW and missing > self.options.max_missing * asked:
            last = next((s.rationale for s in reversed(scores) if s.level is None), "see above")
            raise TeacherUnavailable(
                f"{missing} of the last {asked} scores of {self.options.model} are missing, more"
                f" than max_missing={self.options.max_missing} allows ({last})"
            )
        return scores

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        """The model's own next action in each episode, greedy where its seed is 0.

        Where the server refuses one, or gives none in time, the action is empty: the demonstration
        fails, and the others go on. Raises TeacherUnavailable where it gives none at all.
        """
        actions = self._connection.run([self._act(episode) for episode in episodes])
        failures = [action for action in actions if isinstance(action, NoAnswer)]
        with self._lock:
            self.usage.actions += len(actions)
            self.usage.faults.update(["no action"] * len(failures))
        if failures and len(failures) == len(actions):
            raise TeacherUnavailable(f"{self.options.model} gave no action: {failures[0]}")
        return ["" if isinstance(action, NoAnswer) else action for action in actions]

    def rate(self, requests: Sequence[GroupRequest]) -> list[GroupVerdict | None]:
        """Criteria for each task, then every episode judged by them. None for a task whose criteria
        do not come in their form; an episode whose judgement does not come has none."""
        authored = self._connection.run([self._criteria(request) for request in requests])
        asked = [
            (criteria, episode)
            for criteria, request in zip(authored, requests, strict=True)
            if criteria is not None
            for episode in request.episodes
        ]
        judged = iter(self._connection.run([self._verdict(e, c) for c, e in asked]))
        return [
            None
            if criteria is None
            else GroupVerdict(criteria, tuple(next(judged) for _ in request.episodes))
            for criteria, request in zip(authored, requests, strict=True)
        ]

    async def _criteria(self, request: GroupRequest) -> tuple[Criterion, ...] | None:
        if not request.episodes:
            return None
        messages = criteria_messages(request.episodes, request.references)
        return await self._read_reply(messages, _CRITERIA_TOKENS, read_criteria)

    async def _verdict(
        self, episode: Episode, criteria: Sequence[Criterion]
    ) -> tuple[int | None, ...] | None:
        read = partial(read_verdict, criteria=len(criteria), steps=len(episode.turns))
        tokens = _VERDICT_TOKENS * len(criteria)
        return await self._read_reply(verdict_messages(episode, criteria), tokens, read)

    async def _read_reply(
        self, messages: Messages, tokens: int, read: Callable[[str], T | None]
    ) -> T | None:
        """A reply that is not in its form is sampled again."""
        for number in range(_TRIES):
            temperature = self.options.temperature if number else 0.0
            try:
                reply = await self._connection.ask(Wish(messages, tokens, temperature, seed=number))
            except NoAnswer:
                return None
            if (found := read(reply.text)) is not None:
                return found
            self.usage.faults.update(["not in the form"])
        return None

    async def _score(self, request: ScoreRequest) -> VerbalScore:
        if request.levels > _MOST_LEVELS:
            raise OptionError(f"score_levels={request.levels}: a model scores at most 10 levels")
        digits = tuple(str(level) for level in range(request.levels))
        wish = Wish(self._prompt(request), self.options.score_tokens, 0.0, choice=digits)
        try:
            reply = await self._connection.ask(wish)
        except NoAnswer as error:
            return VerbalScore.missing(str(error))
        said = re.fullmatch(r"\s*(\d)\s*[.]?\s*", reply.text)
        if said is None or said[1] not in digits:
            return VerbalScore.missing(f"not a digit: {reply.text[:40]!r}")
        level, expected = int(said[1]), _expected(reply, digits)
        source = f"llm {self.options.model} prompt {VERSION}"
        return VerbalScore(level, float(level) if expected is None else expected, "", source)

    async def _act(self, episode: Episode) -> str | NoAnswer:
        wish = Wish(
            play_messages(episode),
            self.options.action_tokens,
            self.options.temperature if episode.seed else 0.0,
            seed=episode.seed,
            stop=_TURN_ENDS,
        )
        try:
            reply = await self._connection.ask(wish)
        except NoAnswer as error:
            return error
        return whole_action(reply.text, _TURN_ENDS)


def _expected(reply: Reply, digits: Sequence[str]) -> float | None:
    """The mean level under the model's probabilities of the digits; None if it gave none."""
    weights = {int(digit): reply.digits[digit] for digit in digits if digit in reply.digits}
    total = sum(weights.values())
    return sum(level * weight for level, weight in weights.items()) / total if total else None
