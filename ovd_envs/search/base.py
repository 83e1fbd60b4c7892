"""What an environment needs of a search engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ovd_envs.episode import Episode
from retrieval_index.documents import Document


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A query and the episode that asks, as it stood before this turn. An index reads the query
    alone; an engine that is played by a model may read all."""

    query: str
    episode: Episode


@runtime_checkable
class SearchEngine(Protocol):
    """Answers a batch of requests with up to `k` passages each, best first."""

    def search(
        self, requests: Sequence[SearchRequest], k: int
    ) -> Sequence[Sequence[Document] | None]:
        """In the order of the requests; None where only this search failed. What is raised fails
        all of them."""
        ...


@runtime_checkable
class PacedSearch(Protocol):
    """An engine whose answers change over a run, such as a simulated one that grows noisy."""

    def pace(self, share: float) -> float:
        """Told before each update which share of the run is done; returns the chance that a query
        is answered by passages that do not help."""
        ...
