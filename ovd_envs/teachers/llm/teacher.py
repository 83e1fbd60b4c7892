"""A teacher behind any OpenAI-compatible server: vLLM, a hosted model, a closed one.

Nothing is made up: a score that does not come, or cannot be read, is missing and counted.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ovd_envs.episode import Episode, VerbalScore
from ovd_envs.errors import OptionError, TeacherUnavailable
from ovd_envs.teachers.base import ScoreRequest, TeacherContext
from ovd_envs.teachers.llm.prompts import (
    VERSION,
    Messages,
    play_messages,
    score_messages,
    whole_action,
)

ScorePrompt = Callable[[ScoreRequest], Messages]

_MOST_LEVELS = 10
_REPLY_FORMAT = 2
"""Raised whenever what is kept of a reply changes."""
_FEW = 30
"""Fewer scores than this say nothing about the share of missing ones."""
_RECENT = 200
"""The share of missing scores is that of this many latest ones, so that a teacher which fails late
is noticed."""
_WAIT, _LONGEST_WAIT = 0.25, 8.0
_NO_TRY = "no try was made"
_TURN_ENDS = ("</search>", "</answer>")


@dataclass(frozen=True, slots=True)
class LLMOptions:
    """A model behind an OpenAI-compatible server. The key is read from OPENAI_API_KEY."""

    model: str
    """The name under which the server knows it."""
    base_url: str = "http://127.0.0.1:8000/v1"
    shows_answer: bool = True
    """Whether the judge is told the right answer."""
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
    action_tokens: int = 160
    """Tokens of an action, when it demonstrates."""
    temperature: float = 0.7
    """Sampling temperature of actions in an episode whose seed is not 0: further tries of a
    demonstration."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "try_seconds", "total_seconds", "action_tokens"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name}={getattr(self, name)}: expected more than 0")
        if not 0 <= self.max_missing <= 1:
            raise OptionError(f"max_missing={self.max_missing}: expected a share, 0 to 1")


@dataclass(slots=True)
class Usage:
    """What was asked and what it took."""

    scores: int = 0
    missing: int = 0
    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    """Failed tries by kind: "429", "500", "timeout", "connection", "junk"."""

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"faults": {**self.faults}}


def build(options: LLMOptions, context: TeacherContext) -> LLMTeacher:
    """Raises OptionError where the environment asks for more levels than one digit has."""
    if context.score_levels > _MOST_LEVELS:
        raise OptionError(
            f"score_levels={context.score_levels}: a language model scores at most {_MOST_LEVELS}"
        )
    return LLMTeacher(options)


class LLMTeacher:
    """A `Teacher`: a model that scores steps by a rubric, and demonstrates by playing itself."""

    def __init__(self, options: LLMOptions, prompt: ScorePrompt | None = None) -> None:
        """`prompt` words the question for a score, where ours does not suit. Raises OptionError
        where a package is not installed."""
        for module, package in (("openai", "openai"), ("diskcache", "diskcache")):
            if importlib.util.find_spec(module) is None:
                raise OptionError(f'a language model as teacher needs {package}: "ovd[teacher]"')
        self.options = options
        self._prompt = prompt or partial(score_messages, shows_answer=options.shows_answer)
        self.usage = Usage()
        self._openai = importlib.import_module("openai")
        self._http_error = importlib.import_module("httpx").HTTPError
        self._client = self._openai.OpenAI(
            base_url=options.base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=0,  # tries are counted here, and end at one deadline
            timeout=options.try_seconds,
        )
        self._cache = _open_cache(options.cache)
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=_RECENT)
        """Of the latest scores, whether each was missing."""
        self._limits_choice = True
        self._threads = ThreadPoolExecutor(options.concurrency, thread_name_prefix="teacher")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by its options: the other process has a client of its own."""
        return LLMTeacher, (self.options, self._prompt)

    def __deepcopy__(self, memo: object) -> LLMTeacher:
        return self

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        """One score for each request, many at a time. Raises TeacherUnavailable where the server
        refuses for good, or where too many scores are missing."""
        scores = list(self._threads.map(self._score, requests))
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
        actions = list(self._threads.map(self._act, episodes))
        failures = [action for action in actions if isinstance(action, _NoAnswer)]
        if failures and len(failures) == len(actions):
            raise TeacherUnavailable(f"{self.options.model} gave no action: {failures[0]}")
        return ["" if isinstance(action, _NoAnswer) else action for action in actions]

    def _score(self, request: ScoreRequest) -> VerbalScore:
        if request.levels > _MOST_LEVELS:
            raise OptionError(f"score_levels={request.levels}: a model scores at most 10 levels")
        digits = [str(level) for level in range(request.levels)]
        messages = self._prompt(request)
        asked = {"max_tokens": 4, "logprobs": True, "top_logprobs": 20, "temperature": 0.0}
        try:
            reply = self._ask(messages, asked, digits)
        except _NoAnswer as error:
            return VerbalScore.missing(str(error))
        said = re.fullmatch(r"\s*(\d)\s*[.]?\s*", reply["text"])
        if said is None or said[1] not in digits:
            return VerbalScore.missing(f"not a digit: {reply['text'][:40]!r}")
        level = int(said[1])
        expected = _expected(reply["digits"], digits)
        source = f"llm {self.options.model} prompt {VERSION}"
        return VerbalScore(level, float(level) if expected is None else expected, "", source)

    def _act(self, episode: Episode) -> str | _NoAnswer:
        asked = {
            "max_tokens": self.options.action_tokens,
            "temperature": self.options.temperature if episode.seed else 0.0,
            "seed": episode.seed,
            "stop": list(_TURN_ENDS),
        }
        try:
            reply = self._ask(play_messages(episode), asked)
        except _NoAnswer as error:
            with self._lock:
                self.usage.faults["no action"] += 1
            return error
        return whole_action(reply["text"], _TURN_ENDS)

    def _ask(
        self, messages: Messages, asked: dict[str, Any], choice: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The reply, from the cache or from the server. Raises _NoAnswer after the deadline."""
        key = _key(self.options, messages, asked, choice)
        if self._cache is not None and (found := self._cache.get(key)) is not None:
            with self._lock:
                self.usage.cached += 1
            return found
        deadline = time.monotonic() + self.options.total_seconds
        wait, why = _WAIT, _NO_TRY
        limited = bool(choice) and self._limits_choice
        while (left := deadline - time.monotonic()) > 0:
            seconds = min(left, self.options.try_seconds)
            try:
                reply = self._try(messages, asked, choice if limited else (), seconds)
            except _Retry as fault:
                # What the deadline itself cut short says nothing of the server.
                if fault.kind != "timeout" or seconds == self.options.try_seconds or why == _NO_TRY:
                    why = str(fault)
                # It may be the limit that the server refuses: read this reply strictly instead.
                limited = limited and fault.kind != "400"
                with self._lock:
                    self.usage.faults[fault.kind] += 1
                pause = wait * (0.5 + random.random()) if fault.after is None else fault.after
                time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            if choice and not limited:  # and so it was: the others need not try
                self._limits_choice = False
            if self._cache is not None:
                self._cache.set(key, reply)
            return reply
        raise _NoAnswer(f"{why}, for {self.options.total_seconds:g} seconds")

    def _try(
        self, messages: Messages, asked: dict[str, Any], choice: Sequence[str], seconds: float
    ) -> dict[str, Any]:
        openai = self._openai
        extra = {"structured_outputs": {"choice": list(choice)}} if choice else {}
        with self._lock:
            self.usage.requests += 1
        try:
            answer = self._client.chat.completions.create(
                model=self.options.model,
                messages=messages,
                timeout=seconds,
                extra_body=extra,
                **asked,
            )
            return self._read(answer)
        except openai.APITimeoutError:
            raise _Retry("timeout", f"no answer in {seconds:.3g} seconds") from None
        except (openai.APIConnectionError, self._http_error) as error:
            raise _Retry("connection", f"the connection failed ({_line(error)})") from None
        except openai.BadRequestError as error:
            if choice:
                raise _Retry("400", _line(error), after=0.0) from None
            raise _NoAnswer(f"refused: {_line(error)}") from None
        except (openai.RateLimitError, openai.InternalServerError) as error:
            after = _retry_after(error.response.headers)
            raise _Retry(str(error.status_code), _line(error), after) from None
        except openai.APIStatusError as error:
            raise TeacherUnavailable(
                f"{self.options.base_url} refuses {self.options.model!r}"
                f" ({error.status_code}: {_line(error)}); check the model's name and the key"
            ) from None
        except (openai.OpenAIError, AttributeError, TypeError, ValueError, IndexError) as error:
            raise _Retry("junk", f"not an answer ({type(error).__name__})") from None

    def _read(self, answer: Any) -> dict[str, Any]:
        """What is used of an answer, as JSON. Raises what comes of reading junk."""
        choice = answer.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            raise TypeError("no text in it")
        likely = _at_the_digit(getattr(choice.logprobs, "content", None) or [])
        if answer.usage is not None:
            with self._lock:
                self.usage.prompt_tokens += answer.usage.prompt_tokens
                self.usage.completion_tokens += answer.usage.completion_tokens
        return {"text": text, "digits": likely}


class _NoAnswer(Exception):
    """No usable answer to this request."""


class _Retry(Exception):
    """A try that failed, and may go well the next time."""

    def __init__(self, kind: str, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.kind, self.after = kind, after


def _at_the_digit(content: Sequence[Any]) -> dict[str, float]:
    """Probabilities of the tokens that the model might have written where its digit stands, which
    need not be its first token. Tokens that say the same digit (" 7" and "7") are added up. Empty
    where there is no digit, or a number that is no log-probability."""
    position = next((each for each in content if each.token.strip()), None)
    if position is None or not position.token.strip().isdigit():
        return {}
    found: dict[str, float] = {}
    for each in position.top_logprobs or []:
        if not isinstance(each.logprob, float | int) or not -math.inf <= each.logprob <= 1e-3:
            return {}
        said = each.token.strip()
        found[said] = found.get(said, 0.0) + math.exp(each.logprob)
    return found


def _expected(likely: dict[str, float], digits: Sequence[str]) -> float | None:
    """The mean level under the model's probabilities of the digits; None if it gave none."""
    weights = {int(digit): likely[digit] for digit in digits if digit in likely}
    total = sum(weights.values())
    return sum(level * weight for level, weight in weights.items()) / total if total else None


def _retry_after(headers: Any) -> float | None:
    try:
        return max(0.0, float(headers.get("retry-after")))
    except (TypeError, ValueError):
        return None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _key(
    options: LLMOptions, messages: Messages, asked: dict[str, Any], choice: Sequence[str]
) -> str:
    """Of everything that an answer depends on: served models often have one name, "teacher"."""
    asked_of = [_REPLY_FORMAT, VERSION, options.base_url, options.model]
    content = json.dumps([*asked_of, messages, asked, list(choice)], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _open_cache(folder: Path | None) -> Any:
    if folder is None:
        return None
    diskcache = importlib.import_module("diskcache")
    # As JSON: what lies on a disk is never unpickled.
    return diskcache.Cache(str(folder), disk=diskcache.JSONDisk)
