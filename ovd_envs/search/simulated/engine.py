"""`search="simulated:..."`: useful or noisy passages, written for each query (ZeroSearch,
arXiv 2505.04588).

No corpus is needed: rules write from the task (`simulated:oracle`), or a language model from what
it knows (`simulated:MODEL@http://HOST:PORT/v1`). Noise grows with training, so that a student
first learns to search and then to doubt. What is written depends on the seed, the task, the turn
and the query alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.search.base import SearchRequest
from ovd_envs.search.simulated.base import Writer, WriteRequest
from ovd_envs.search.simulated.model import ModelWriter
from ovd_envs.search.simulated.rules import RuleWriter
from retrieval_index.documents import Document
from retrieval_index.http import check_address
from retrieval_index.index import PassageIndex
from retrieval_index.mentions import mentions

RULES = "oracle"


@dataclass(frozen=True)
class Noise:
    """The chance that a query is answered by noisy passages, over a run."""

    start: float = 0.0
    """At the beginning."""
    end: float = 0.0
    """At the end."""
    base: float = 4.0
    """Of the growth p = start + (base^share - 1) / (base - 1) · (end - start), `share` of the run
    done; 1 is linear."""

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise OptionError(f"noise={self.start} to {self.end}: expected shares in [0, 1]")
        if self.base < 1:
            raise OptionError(f"noise.base={self.base}: expected at least 1")

    def at(self, share: float) -> float:
        """The chance when `share` of the run is done, 0 to 1."""
        grown = share if self.base == 1 else (self.base**share - 1) / (self.base - 1)
        return self.start + grown * (self.end - self.start)


@dataclass(frozen=True)
class SimulatedOptions:
    """A search engine that is simulated."""

    writer: str = RULES
    """Who writes: "oracle", rules that read the task, or MODEL@http://HOST:PORT/v1, a language
    model behind an OpenAI-compatible server (the key is read from OPENAI_API_KEY)."""
    grounded: Path | None = None
    """An index whose passages for the query are rewritten; by default a model writes from what it
    knows, told what the query asks for."""
    noise: Noise = field(default_factory=Noise)
    words: int = 30
    """Of a passage, about."""
    seed: int = 0
    """Decides which queries are answered by noise, and what a model samples."""
    temperature: float = 0.8
    """Of a model."""
    concurrency: int = 16
    """Concurrent requests of a model."""
    try_seconds: float = 60.0
    """Time limit of one request."""
    total_seconds: float = 180.0
    """Time limit of the passages of a query, all tries included."""
    cache: Path | None = None
    """A folder that keeps what a model wrote between runs."""

    def __post_init__(self) -> None:
        if self.writer != RULES:
            model, _, url = self.writer.partition("@")
            if not model or not url:
                raise OptionError(
                    f'writer={self.writer!r}: expected "{RULES}" or MODEL@http://HOST:PORT/v1'
                )
            check_address(url, "writer", OptionError)
        if self.words < 1:
            raise OptionError(f"words={self.words}: expected at least 1")
        if self.grounded is not None and self.writer == RULES:
            raise OptionError("grounded: a model rewrites passages; the oracle writes its own")


@dataclass(slots=True)
class Written:
    """What a simulated engine did."""

    queries: int = 0
    noisy: int = 0
    failed: int = 0

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


class SimulatedSearch:
    """A `SearchEngine` whose passages a `Writer` writes."""

    def __init__(self, options: SimulatedOptions, writer: Writer, index: Any = None) -> None:
        self.options, self.writer, self.index = options, writer, index
        self.written = Written()
        self._noise = options.noise.at(0.0)
        self._lock = threading.Lock()

    def pace(self, share: float) -> float:
        """From now on noisy passages are as likely as at this share of a run."""
        self._noise = self.options.noise.at(share)
        return self._noise

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document] | None]:
        """None where nothing that can be used was written for a query."""
        wanted = [self._request(request, k) for request in requests]
        if self.index is not None:
            wanted = self._grounded(wanted, k)
        found = self.writer.write(wanted)
        with self._lock:
            self.written.queries += len(wanted)
            self.written.noisy += sum(not each.useful for each in wanted)
            self.written.failed += sum(not each for each in found)
        return [
            [_document(want, *each) for each in passages[:k]] if passages else None
            for want, passages in zip(wanted, found, strict=True)
        ]

    def __deepcopy__(self, memo: object) -> SimulatedSearch:
        return self

    def _request(self, request: SearchRequest, k: int) -> WriteRequest:
        episode, seed = request.episode, self.options.seed
        words = [str(seed), episode.task.id, str(len(episode.turns)), request.query]
        key = hashlib.blake2b("\0".join(words).encode("utf-8", "replace"), digest_size=8).digest()
        drawn = int.from_bytes(key)
        useful = drawn / 2**64 >= self._noise
        return WriteRequest(
            request.query, episode, useful, k, self.options.words, seed=drawn % 2**31
        )

    def _grounded(self, wanted: Sequence[WriteRequest], k: int) -> list[WriteRequest]:
        """With the passages of the index: the first for useful ones, near misses for noisy."""
        found = self.index.search([each.query for each in wanted], 4 * k)
        return [
            replace(each, found=tuple(passages[:k] if each.useful else passages[-k:]))
            for each, passages in zip(wanted, found, strict=True)
        ]


def _document(want: WriteRequest, title: str, text: str) -> Document:
    """Its id is of what it says: a passage that is written twice is the same one. One that states
    the fact of a gold passage counts as a piece of it, so that a teacher can judge it."""
    said = hashlib.blake2b(f"{title}\0{text}".encode("utf-8", "replace"), digest_size=6)
    number = int.from_bytes(said.digest())
    gold = _stands_for(f"{title} {text}", want.episode.task)
    return Document(f"{gold}#{number}" if gold else f"written-{number:x}", title, text)


def _stands_for(text: str, task: Task) -> str:
    """The gold passage whose fact a text states; empty if there is none."""
    chain = task.metadata.get("chain") or []
    for link in chain:
        subject = str(link["query"]).partition(" of ")[2]
        if mentions(text, [str(link["answer"])]) and mentions(text, [subject]):
            return str(link["passage"])
    if not chain and task.supporting and mentions(text, task.answers):
        return task.supporting[-1]
    return ""


def build(options: SimulatedOptions) -> SimulatedSearch:
    """Raises OptionError, or RetrievalError for a folder that holds no sound index."""
    if options.writer == RULES:
        return SimulatedSearch(options, RuleWriter(options.seed))
    model, _, url = options.writer.partition("@")
    writer = ModelWriter(
        model,
        url,
        temperature=options.temperature,
        concurrency=options.concurrency,
        try_seconds=options.try_seconds,
        total_seconds=options.total_seconds,
        cache=options.cache,
    )
    index = None if options.grounded is None else PassageIndex.open(options.grounded)
    return SimulatedSearch(options, writer, index)
