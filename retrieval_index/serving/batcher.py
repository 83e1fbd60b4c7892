"""Queries of many requests to a few batched searches."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from retrieval_index.documents import Document
from retrieval_index.index import Mode

Found = list[Document]
Key = tuple[str, int, Mode | None, str]
"""Query, k, mode and the fingerprint of the index: what a result depends on."""
Search = Callable[[list[str], int, Mode | None], list[Found]]
_OBJECT_BYTES = 500


class Overloaded(Exception):
    """Too many queries wait already."""


class DeadlinePassed(Exception):
    """The answer did not come in time."""


@dataclass(slots=True)
class Waiting:
    """A query that waits for its search; `deadline` is the latest of those who asked."""

    key: Key
    future: asyncio.Future[Found]
    deadline: float


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    queries: int = 0
    cached: int = 0
    joined: int = 0
    searched: int = 0
    batches: int = 0
    expired: int = 0


@dataclass(slots=True)
class Batcher:
    """Searches at once when idle; what arrives during a search makes up the next batch.

    One thread searches, with all the threads that the search itself uses: many searches at a time
    would only take them from each other. Equal queries are searched once: one that is being
    searched is waited for, and one that was is in a cache of `cache_bytes`.
    `fingerprint` says which index is searched now.
    """

    search: Search
    fingerprint: Callable[[], str]
    max_batch: int = 256
    max_waiting: int = 4096
    cache_bytes: int = 64 << 20
    counts: Counts = field(default_factory=Counts)
    _cache: OrderedDict[Key, Found] = field(default_factory=OrderedDict[Key, Found])
    _cached: int = 0
    _queue: deque[Waiting] = field(default_factory=deque[Waiting])
    _flying: dict[Key, Waiting] = field(default_factory=dict[Key, Waiting])
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
    )

    @property
    def waiting(self) -> int:
        """Queries in the queue."""
        return len(self._queue)

    async def ask(
        self, queries: Sequence[str], k: int, mode: Mode | None, seconds: float
    ) -> list[Found]:
        """What each query finds; an empty one finds nothing. Raises Overloaded, or DeadlinePassed
        after `seconds`; whatever the search raises is raised here, too."""
        fingerprint, deadline = self.fingerprint(), time.monotonic() + seconds
        keys: list[Key] = [(query, k, mode, fingerprint) for query in queries]
        wanted = dict.fromkeys(key for key in keys if key[0].strip())
        new = sum(key not in self._cache and key not in self._flying for key in wanted)
        if new and self.waiting + new > self.max_waiting:
            raise Overloaded(f"{self.waiting} queries wait already, of at most {self.max_waiting}")
        asked = [self._result(key, deadline) if key in wanted else None for key in keys]
        self.counts.queries += sum(future is not None for future in asked)
        if pending := {future for future in asked if future and not future.done()}:
            # Not `wait_for`, which would cancel what others wait for, too.
            _, late = await asyncio.wait(pending, timeout=seconds)
            if late:
                raise DeadlinePassed(f"no answer within {seconds:g} s")
        return [future.result() if future else [] for future in asked]

    async def run(self) -> None:
        """Dispatch batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._take()
            for (k, mode), group in _groups(batch).items():
                queries = [waiting.key[0] for waiting in group]
                self.counts.batches += 1
                self.counts.searched += len(queries)
                try:
                    found = await loop.run_in_executor(self._thread, self.search, queries, k, mode)
                except Exception as error:  # those who asked must know, and the others go on
                    self._fail(group, error)
                else:
                    self._settle(group, found)

    def close(self) -> None:
        """End the thread; a search that is running is finished first."""
        self._thread.shutdown()

    def _result(self, key: Key, deadline: float) -> asyncio.Future[Found]:
        if key in self._cache:
            self.counts.cached += 1
            self._cache.move_to_end(key)
            known: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            known.set_result(self._cache[key])
            return known
        if key in self._flying:
            self.counts.joined += 1
            flying = self._flying[key]
            flying.deadline = max(flying.deadline, deadline)
            return flying.future
        waiting = Waiting(key, asyncio.get_running_loop().create_future(), deadline)
        self._flying[key] = waiting
        self._queue.append(waiting)
        self._arrived.set()
        return waiting.future

    def _take(self) -> list[Waiting]:
        """The next batch, without those whom nobody waits for any more."""
        batch: list[Waiting] = []
        now = time.monotonic()
        while self._queue and len(batch) < self.max_batch:
            waiting = self._queue.popleft()
            if waiting.deadline > now:
                batch.append(waiting)
            else:
                self.counts.expired += 1
                del self._flying[waiting.key]
        if not self._queue:
            self._arrived.clear()
        return batch

    def _settle(self, group: list[Waiting], found: list[Found]) -> None:
        for waiting, documents in zip(group, found, strict=True):
            del self._flying[waiting.key]
            waiting.future.set_result(documents)
            self._keep(waiting.key, documents)

    def _keep(self, key: Key, documents: Found) -> None:
        """What was asked for longest ago makes room."""
        self._cache[key] = documents
        self._cached += _bytes(key, documents)
        while self._cached > self.cache_bytes:
            self._cached -= _bytes(*self._cache.popitem(last=False))

    def _fail(self, group: list[Waiting], error: Exception) -> None:
        for waiting in group:
            del self._flying[waiting.key]
            waiting.future.set_exception(error)
            waiting.future.exception()  # nobody may be waiting any more: that is no second error


def _bytes(key: Key, documents: Found) -> int:
    """About what a result takes: its texts, and Python's objects around them."""
    texts = sum(len(document.title) + len(document.text) for document in documents)
    return len(key[0]) + texts + _OBJECT_BYTES * (1 + len(documents))


def _groups(batch: Sequence[Waiting]) -> dict[tuple[int, Mode | None], list[Waiting]]:
    groups: dict[tuple[int, Mode | None], list[Waiting]] = {}
    for waiting in batch:
        _, k, mode, _ = waiting.key
        groups.setdefault((k, mode), []).append(waiting)
    return groups
