"""A second look: a cross-encoder orders again what a search engine found."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from retrieval_index.documents import Document
from retrieval_index.encoders import without_surrogates
from retrieval_index.errors import EncoderError, MissingPackageError

DEPTH = 50
_BATCH = 32


class Searches(Protocol):
    """What is searched first: an index, a client, or any engine of yours."""

    def search(self, queries: Sequence[str], k: int = 5) -> list[list[Document]]: ...


class Reranked:
    """A search engine whose best `depth` passages are scored again by a cross-encoder.

    `model` is the name or folder of a sentence-transformers CrossEncoder, such as
    "cross-encoder/ms-marco-MiniLM-L6-v2", or an object with its `predict`. A document's score is
    the model's; equal ones stay in the order of the first search.
    """

    def __init__(self, engine: Searches, model: Any, *, depth: int = DEPTH) -> None:
        """Raises EncoderError where there is no such model."""
        if depth < 1:
            raise ValueError(f"depth={depth}: expected at least 1")
        self.engine, self.depth = engine, depth
        self._model: Any = _load(model) if isinstance(model, str) else model

    def search(self, queries: Sequence[str], k: int = 5) -> list[list[Document]]:
        """The `k` best passages for each query; all pairs are scored in one call."""
        found = self.engine.search(queries, max(k, self.depth))
        pairs = [
            (without_surrogates(query), without_surrogates(document.contents))
            for query, documents in zip(queries, found, strict=True)
            for document in documents
        ]
        if not pairs:
            return found
        scores = np.asarray(
            self._model.predict(pairs, batch_size=_BATCH, show_progress_bar=False)
        ).astype(np.float64)
        if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
            raise EncoderError(
                f"the cross-encoder gave scores of shape {scores.shape} or values that are not"
                f" finite: expected one number for each of {len(pairs)} pairs"
            )
        ends = np.cumsum([len(documents) for documents in found])
        return [
            _ordered(documents, own, k)
            for documents, own in zip(found, np.split(scores, ends[:-1]), strict=True)
        ]


def _ordered(documents: list[Document], scores: np.ndarray, k: int) -> list[Document]:
    order = np.argsort(-scores, kind="stable")[:k]
    return [replace(documents[place], score=float(scores[place])) for place in order.tolist()]


def _load(name: str) -> Any:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingPackageError("sentence-transformers", f"cross-encoder {name!r}")
    try:
        return importlib.import_module("sentence_transformers").CrossEncoder(name)
    except Exception as error:
        # Whatever the many loaders inside raise, the user's question is the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(
            f"cross-encoder {name!r} does not load ({reason}); expected the name of a model on the"
            " Hub, or its folder"
        ) from error
