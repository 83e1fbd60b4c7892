"""A model's server: requests in the form that it takes, until a deadline, kept in a cache."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import math
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ovd_envs.errors import OptionError, TeacherUnavailable
from ovd_envs.llm.forms import Form, Wish
from retrieval_index.http import HTTPFault, JSONClient, OutOfTime, persist, said

T = TypeVar("T")

_REPLY_FORMAT = 3
"""Raised whenever what is kept of a reply changes."""
_REFUSALS = ("400", "403", "413", "422")
"""A request that is refused in this form, or for what it holds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is served, and how long to wait for it."""

    model: str
    base_url: str
    concurrency: int
    try_seconds: float
    total_seconds: float


@dataclass(slots=True)
class Usage:
    """What was asked and what it took."""

    scores: int = 0
    missing: int = 0
    actions: int = 0
    """Of demonstrations."""
    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    """Failed tries by kind: "429", "500", "timeout", "connection", "junk"."""

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"faults": {**self.faults}}


class NoAnswer(Exception):
    """No usable answer to this request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A text, and the probabilities of the tokens that might stand where its digit stands."""

    text: str
    digits: dict[str, float]


class Connection:
    """Asks one server. Its coroutines run in `run`, up to `concurrency` requests at a time."""

    def __init__(
        self, server: Server, key: str | None, cache: Path | None, version: str = ""
    ) -> None:
        """`version` is that of the prompts, on which kept answers depend, too. Raises OptionError
        where the key cannot stand in a header."""
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise OptionError(
                "OPENAI_API_KEY holds a space, a line end or another character that no key has:"
                " set it again"
            )
        self.server, self.usage, self.version = server, Usage(), version
        self.form = Form()
        self._client = JSONClient({"Authorization": f"Bearer {key or 'none'}"})
        self._cache = _open_cache(cache)

    def run(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """The results of coroutines that call `ask`, in their order."""

        async def gathered() -> list[T]:
            limit = asyncio.Semaphore(self.server.concurrency)

            async def limited(each: Coroutine[Any, Any, T]) -> T:
                async with limit:
                    return await each

            tasks = [asyncio.ensure_future(limited(each)) for each in work]
            try:
                return list(await asyncio.gather(*tasks))
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

        return self._client.run(gathered())

    async def ask(self, wish: Wish) -> Reply:
        """The reply, from the cache or from the server. Raises NoAnswer after the deadline or where
        the server refuses this request, TeacherUnavailable where it refuses all."""
        key = _key(self.server, wish, self.version)
        if self._cache is not None and (found := self._cache.get(key)) is not None:
            self.usage.cached += 1
            return Reply(found["text"], found["digits"])
        reply = await self._asked(wish)
        if self._cache is not None:
            self._cache.set(key, {"text": reply.text, "digits": reply.digits})
        return reply

    async def _asked(self, wish: Wish) -> Reply:
        form, refused = self.form, 0

        async def attempt(seconds: float) -> Reply:
            nonlocal form, refused
            self.usage.requests += 1
            try:
                return self._read(await self._post(form, wish, seconds))
            except HTTPFault as fault:
                if fault.kind not in _REFUSALS:
                    raise
                refused += 1
                reduced = form.without_refused(fault.text)
                # A refusal that names no parameter may have been for another reason: twice, then.
                if reduced is None and wish.choice and form.structured and fault.kind != "403":
                    reduced = form if refused == 1 else replace(form, structured=False)
                if reduced is None:
                    raise
                form = reduced
                raise HTTPFault(fault.kind, str(fault), after=0.0) from None

        try:
            reply = await persist(
                attempt,
                address=self.server.base_url,
                try_seconds=self.server.try_seconds,
                total_seconds=self.server.total_seconds,
                on_fault=lambda fault: self.usage.faults.update([fault.kind]),
            )
        except HTTPFault as fault:
            raise self._failure(fault) from None
        if form != self.form:
            left_out = form.difference(self.form)
            self.form = form
            log.warning("%s takes requests in another form: %s", self.server.base_url, left_out)
        return reply

    async def _post(self, form: Form, wish: Wish, seconds: float) -> Any:
        url = f"{self.server.base_url}/chat/completions"
        return await self._client.post(url, form.body(self.server.model, wish), seconds)

    def _failure(self, fault: HTTPFault) -> Exception:
        if isinstance(fault, OutOfTime) or fault.kind == "filtered":
            return NoAnswer(str(fault))
        if fault.kind in _REFUSALS and fault.kind != "403":
            return NoAnswer(f"refused: {fault}")
        url, advice = self.server.base_url, "check the model's name and the key"
        if fault.kind == "404" and not url.endswith("/v1"):
            advice = f"check the address, which mostly ends with /v1: {url}/v1"
        return TeacherUnavailable(f"{url} refuses {self.server.model!r} ({fault}); {advice}")

    def _read(self, answer: Any) -> Reply:
        """What is used of an answer. Raises HTTPFault where it is none."""
        try:
            if answer.get("error"):
                raise HTTPFault(
                    "junk", f"an error instead of an answer: {said(json.dumps(answer))}"
                )
            choice = answer["choices"][0]
            if choice.get("finish_reason") == "content_filter" or choice["message"].get("refusal"):
                words = choice["message"].get("refusal") or "content filter"
                raise HTTPFault("filtered", f"the server withholds it: {words}", again=False)
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise HTTPFault("junk", f"no text in the answer ({choice.get('finish_reason')})")
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise HTTPFault("junk", f"not an answer ({type(error).__name__} {error})") from None
        self._count(answer.get("usage"))
        return Reply(text, probabilities_at_digit(choice.get("logprobs")))

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            for name in ("prompt_tokens", "completion_tokens"):
                count = usage.get(name)
                if isinstance(count, int) and count >= 0:
                    setattr(self.usage, name, getattr(self.usage, name) + count)


def probabilities_at_digit(logprobs: Any) -> dict[str, float]:
    """Probabilities of the tokens that the model might have written where its digit stands, which
    need not be its first token. Tokens that say the same digit (" 7" and "7") are added up. Empty
    where there is no digit, or anything that is no log-probability."""
    try:
        content = logprobs["content"]
        position = next(each for each in content if each["token"].strip())
        if not position["token"].strip().isdigit():
            return {}
        found: dict[str, float] = {}
        for each in position["top_logprobs"]:
            if not -math.inf <= each["logprob"] <= 1e-3:
                return {}
            token = each["token"].strip()
            found[token] = found.get(token, 0.0) + math.exp(each["logprob"])
    except (AttributeError, KeyError, TypeError, StopIteration):
        return {}
    return found


def _key(server: Server, wish: Wish, version: str) -> str:
    """Of everything that an answer depends on: served models often have one name, "teacher"."""
    asked = [wish.messages, wish.max_tokens, wish.temperature, wish.choice, wish.seed, wish.stop]
    content = json.dumps([_REPLY_FORMAT, version, server.base_url, server.model, *asked])
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def _open_cache(folder: Path | None) -> Any:
    if folder is None:
        return None
    diskcache = importlib.import_module("diskcache")
    # As JSON: what lies on a disk is never unpickled.
    return diskcache.Cache(str(folder), disk=diskcache.JSONDisk)
