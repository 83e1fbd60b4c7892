"""What a simulated search engine asks of those who write its passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ovd_envs.episode import Episode
from retrieval_index.documents import Document


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """A query, the episode that asks as it stood before, and what to write: `count` passages of
    about `words` words, that help or that do not. `seed` decides what is random. `found` are
    passages of a real index to be rewritten, where there is one."""

    query: str
    episode: Episode
    useful: bool
    count: int
    words: int
    seed: int
    found: tuple[Document, ...] = ()


class Writer(Protocol):
    """Writes passages."""

    def write(self, requests: Sequence[WriteRequest]) -> list[list[tuple[str, str]] | None]:
        """Titles and texts for each request, at least one and `count` at most; None where nothing
        that can be used came."""
        ...
