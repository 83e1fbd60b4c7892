"""Passage indexes as search engines: one that the user built, or one cached for a task source."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ovd_envs.errors import OptionError
from ovd_envs.search.base import SearchEngine
from retrieval_index.documents import Document

if TYPE_CHECKING:
    from retrieval_index import PassageIndex

CACHE_VARIABLE = "OVD_CACHE"
_ATTEMPTS = 3


def open_search(search: Any) -> SearchEngine:
    """The index in a folder or behind a URL, or any object with a `search(queries, k)` method, as
    it is.

    Raises OptionError for anything else, and for a folder that holds no sound index.
    """
    if isinstance(search, str) and search.startswith(("http://", "https://")):
        from retrieval_index.client import RetrievalClient

        return RetrievalClient(search)
    if isinstance(search, str) and search.startswith("qdrant://"):
        from retrieval_index.qdrant import QdrantIndex

        return QdrantIndex.open(search)
    if isinstance(search, str | Path):
        from retrieval_index import PassageIndex

        return PassageIndex.open(search)
    if isinstance(search, SearchEngine) and not isinstance(search, type):
        return search
    raise OptionError(
        f"search={search!r}: expected an index folder (scripts/build_index.py makes one), the URL"
        " of a served one, or an object with search(queries, k)"
    )


def cached_index(passages: Sequence[Document], name: str = "passages") -> PassageIndex:
    """A hashing index of `passages`, built once and kept in the user's cache folder.

    The folder's name carries a fingerprint of the passages and the encoder. What is there is
    verified when opened, and built again if damaged. Several processes may do this at once: each
    builds in a folder of its own, the first to move it into place wins, and the rest open that.
    The environment variable OVD_CACHE says where the cache is.
    """
    from retrieval_index import HashingEncoder, IndexFileError, PassageIndex, build_index

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


def cache_folder() -> Path:
    from platformdirs import user_cache_dir

    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("ovd"))


def _key(passages: Sequence[Document], encoder: str) -> str:
    digest = hashlib.sha256(encoder.encode())
    for passage in passages:
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode())
    return digest.hexdigest()[:16]


def _discard(folder: Path) -> None:
    """Move a damaged index out of the way at once, then delete it at leisure."""
    aside = folder.with_name(f"{folder.name}.{uuid4().hex}")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process was quicker
    shutil.rmtree(aside, ignore_errors=True)
