"""Passages to a searchable index on disk, and back.

`build_index(corpus, out)` makes an index folder and `PassageIndex.open(out)` searches it. Only
numpy is needed; faiss, sentence-transformers and rich are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval_index.builder import build_index
    from retrieval_index.client import RetrievalClient
    from retrieval_index.corpus import read_corpus
    from retrieval_index.documents import Document
    from retrieval_index.encoders import (
        Encoder,
        HashingEncoder,
        SentenceTransformerEncoder,
        make_encoder,
    )
    from retrieval_index.errors import (
        CorpusError,
        EncoderError,
        IndexExistsError,
        IndexFileError,
        MissingPackageError,
        RetrievalError,
    )
    from retrieval_index.index import PassageIndex
    from retrieval_index.rerank import Reranked
    from retrieval_index.update import update_index

__all__ = [
    "CorpusError",
    "Document",
    "Encoder",
    "EncoderError",
    "HashingEncoder",
    "IndexExistsError",
    "IndexFileError",
    "MissingPackageError",
    "PassageIndex",
    "RetrievalClient",
    "Reranked",
    "RetrievalError",
    "SentenceTransformerEncoder",
    "build_index",
    "make_encoder",
    "read_corpus",
    "update_index",
]

_ROOMS = {
    "build_index": "builder",
    "read_corpus": "corpus",
    "Document": "documents",
    "Encoder": "encoders",
    "HashingEncoder": "encoders",
    "SentenceTransformerEncoder": "encoders",
    "make_encoder": "encoders",
    "PassageIndex": "index",
    "RetrievalClient": "client",
    "Reranked": "rerank",
    "update_index": "update",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'retrieval_index' has no attribute {name!r}")
    return getattr(import_module(f"retrieval_index.{_ROOMS.get(name, 'errors')}"), name)
