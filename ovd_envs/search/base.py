"""What an environment needs of a search engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from retrieval_index.documents import Document


@runtime_checkable
class SearchEngine(Protocol):
    """Anything that answers a batch of queries with up to `k` passages each, best first."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]: ...
