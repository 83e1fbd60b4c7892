"""A teacher of tokens behind vLLM's server: the log-probabilities of a row in one request.

It must tokenise as the student does, which is checked before anything is asked. The server's
log-probabilities are those of temperature 1.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ovd_agent.learner.references import Asked, Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_envs.errors import OptionError
from retrieval_index.http import HTTPFault, JSONClient, check_address, persist

_TEXT = "The town's 17 mills, sold in 1843 for £2,500: <search>who bought them?</search>\n¿Qué?"
_KEPT = 4096
"""Rows whose log-probabilities are remembered: an equal row is not asked again."""


@dataclass(slots=True)
class ServedModel:
    """A reference at `address`, MODEL@http://HOST:PORT.

    Raises OptionError where no server answers there, or it has another tokenizer than the student.
    """

    name: str
    address: str
    tokenizer: PreTrainedTokenizerBase
    concurrency: int = 16
    try_seconds: float = 120.0
    total_seconds: float = 300.0
    faults: Counter[str] = field(default_factory=Counter[str])
    """Failed tries by kind."""
    _known: dict[tuple[int, ...], NDArray[np.float64]] = field(init=False, default_factory=dict)
    _http: JSONClient = field(init=False, default_factory=JSONClient)

    def __post_init__(self) -> None:
        check_address(self.url, "teacher_model", OptionError)
        self._http.run(self._check())

    @property
    def model(self) -> str:
        return self.address.partition("@")[0]

    @property
    def url(self) -> str:
        return self.address.partition("@")[2].rstrip("/").removesuffix("/v1")

    def measure(self, rows: Sequence[TrainingRow], wants: Wants) -> int:
        asked = Asked.of(rows, wants)
        found = self._http.run(self._measured(asked))
        for each, logprobs in zip(asked, found, strict=True):
            if logprobs is None:
                each.row.streams.pop(wants.where)
            else:
                each.fill(self.name, logprobs[each.places])
        return sum(logprobs is None for logprobs in found)

    async def _measured(self, asked: Sequence[Asked]) -> list[NDArray[np.float64] | None]:
        places = asyncio.Semaphore(self.concurrency)

        async def one(ids: list[int]) -> NDArray[np.float64] | None:
            async with places:
                return await self._of(ids)

        return await asyncio.gather(*(one(each.ids) for each in asked))

    async def _of(self, ids: list[int]) -> NDArray[np.float64] | None:
        """Log-probabilities of all ids, 0 for the first; None where the server does not say."""
        if (known := self._known.get(tuple(ids))) is not None:
            return known
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}

        async def attempt(seconds: float) -> NDArray[np.float64]:
            answer = await self._http.post(f"{self.url}/v1/completions", body, seconds)
            return _read(answer, ids)

        try:
            found = await persist(
                attempt,
                address=self.url,
                try_seconds=self.try_seconds,
                total_seconds=self.total_seconds,
                on_fault=lambda fault: self.faults.update([fault.kind]),
            )
        except HTTPFault:
            return None
        while len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        self._known[tuple(ids)] = found
        return found

    async def _check(self) -> None:
        body = {"model": self.model, "prompt": _TEXT, "add_special_tokens": False}
        try:
            answer = await self._http.post(f"{self.url}/tokenize", body, self.try_seconds)
            theirs: Any = answer["tokens"]
        except (HTTPFault, KeyError, TypeError) as error:
            raise OptionError(
                f"teacher_model={self.address!r} cannot be asked ({error}): expected"
                " MODEL@http://HOST:PORT of a vLLM server, which also has the route /tokenize"
            ) from None
        if theirs != list(self.tokenizer.encode(_TEXT, add_special_tokens=False)):
            raise OptionError(
                f"teacher_model={self.address!r} has another tokenizer than the student, so it"
                " judges other tokens; choose a model with the same tokenizer"
            )


def _read(answer: Any, ids: Sequence[int]) -> NDArray[np.float64]:
    try:
        places = answer["choices"][0]["prompt_logprobs"][1:]
        found = [place[str(token)]["logprob"] for token, place in zip(ids[1:], places, strict=True)]
        logprobs = np.array([0.0, *found], dtype=np.float64)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise HTTPFault("junk", f"no log-probabilities of a prompt ({error!r})") from None
    if not np.isfinite(logprobs).all():
        raise HTTPFault("junk", "a log-probability that is not finite")
    return logprobs
