"""Passage indexes as search engines: one that the user built, or one cached for a task source."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from ovd_envs.cache import CACHE_VARIABLE, cache_folder
from ovd_envs.errors import OptionError
from ovd_envs.search.base import SearchRequest
from retrieval_index.client import RetrievalClient
from retrieval_index.documents import Document
from retrieval_index.http import check_address
from retrieval_index.index import Mode, PassageIndex
from retrieval_index.qdrant import QdrantIndex
from retrieval_index.rerank import Reranked

_ATTEMPTS = 3


class AnswersQueries(Protocol):
    """An engine that needs the queries alone."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]: ...


class IndexSearch:
    """An index as a search engine: one batch of distinct queries, whichever episodes ask."""

    def __init__(self, index: AnswersQueries) -> None:
        self.index = index

    @property
    def get(self) -> Callable[[Iterable[str]], Sequence[Document]] | None:
        """Passages by id, where the index can look them up."""
        return getattr(self.index, "get", None)

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document]]:
        queries = [request.query for request in requests]
        distinct = list(dict.fromkeys(queries))
        results = self.index.search(distinct, k)
        if len(results) != len(distinct):
            raise ValueError(f"{len(results)} lists of passages came for {len(distinct)} queries")
        passages = dict(zip(distinct, results, strict=True))
        return [passages[query] for query in queries]

    def __deepcopy__(self, memo: object) -> IndexSearch:
        return self


@dataclass(frozen=True)
class IndexOptions:
    """An index in a folder."""

    path: Path
    mode: Mode | None = None
    """"dense", "bm25" or "hybrid"; by default the index's own."""


@dataclass(frozen=True)
class ServerOptions:
    """An index that `ovd index serve` serves."""

    url: str
    mode: Mode | None = None
    """"dense", "bm25" or "hybrid"; by default the index's own."""
    seconds: float = 60.0
    """Time limit of a request."""

    def __post_init__(self) -> None:
        check_address(self.url, "url", OptionError)
        if self.seconds <= 0:
            raise OptionError(f"seconds={self.seconds}: expected more than 0")


@dataclass(frozen=True)
class QdrantOptions:
    """A collection at qdrant://HOST[:PORT]/COLLECTION."""

    url: str


def as_engine(given: Any) -> Any:
    """What `retrieval_index` offers becomes a search engine; anything else stays as it is."""
    ours = (PassageIndex, RetrievalClient, QdrantIndex, Reranked)
    return IndexSearch(given) if isinstance(given, ours) else given


def open_index(options: IndexOptions) -> IndexSearch:
    return IndexSearch(PassageIndex.open(options.path, mode=options.mode))


def open_server(options: ServerOptions) -> IndexSearch:
    return IndexSearch(RetrievalClient(options.url, mode=options.mode, seconds=options.seconds))


def open_qdrant(options: QdrantOptions) -> IndexSearch:
    return IndexSearch(QdrantIndex.open(options.url))


def cached_index(passages: Sequence[Document], name: str = "passages") -> PassageIndex:
    """A hashing index of `passages`, built once and kept in the user's cache folder.

    The folder's name carries a fingerprint of the passages and the encoder. What is there is
    verified when opened, and built again if damaged. Several processes may do this at once: each
    builds in a folder of its own, the first to move it into place wins, and the rest open that.
    The environment variable OVD_CACHE says where the cache is.
    """
    from retrieval_index import HashingEncoder, IndexFileError, build_index

    encoder = HashingEncoder()
    folder = cache_folder() / "indexes" / f"{name}-{_key(passages, encoder.fingerprint)}"
    for _ in range(_ATTEMPTS):
        if folder.exists():
            try:
                return PassageIndex.open(folder, verify=True)
            except (IndexFileError, FileNotFoundError):
                _discard(folder)
        private = folder.with_name(f"{folder.name}.{uuid4().hex}")
        try:
            build_index(passages, private, encoder, bm25=False, progress=False)
            private.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise ValueError(
                    f"cannot write the search index to {folder.parent} ({error.strerror});"
                    f" set {CACHE_VARIABLE} to a folder that can be written"
                ) from error
        finally:
            shutil.rmtree(private, ignore_errors=True)
    return PassageIndex.open(folder, verify=True)


def _key(passages: Sequence[Document], encoder: str) -> str:
    digest = hashlib.sha256(encoder.encode())
    for passage in passages:
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode())
    return digest.hexdigest()[:16]


def _discard(folder: Path) -> None:
    """Move a damaged index out of the way at once, then delete it later."""
    aside = folder.with_name(f"{folder.name}.{uuid4().hex}")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process was quicker
    shutil.rmtree(aside, ignore_errors=True)
