"""Lexical search: BM25 by bm25s, its term weights memory-mapped."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_index.encoders import without_surrogates
from retrieval_index.errors import REBUILD, CorpusError, IndexFileError, MissingPackageError

K1, B = 0.9, 0.4
"""Pyserini's defaults for passages."""
STEMMER = "english"
METHOD = "lucene"
_WORD = r"(?u)\b\w+\b"
"""One letter or digit is a word too; bm25s would pass over it."""

Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows and scores of one query, best first."""


class Bm25:
    """BM25 over the passages of an index. Make one by `build` or `open`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._stemmer = _stemmer()

    @classmethod
    def build(cls, texts: Iterable[str], folder: Path) -> None:
        """Index `texts` and save to `folder`. Needs memory for all their tokens at once."""
        bm25s = _bm25s()
        tokens = _tokenized(texts, _stemmer(), return_ids=True)
        if not tokens.vocab:
            raise CorpusError("no passage has a word in it: build without BM25 (--no-bm25)")
        engine = bm25s.BM25(k1=K1, b=B, method=METHOD)
        engine.index(tokens, show_progress=False)
        folder.mkdir()
        engine.save(str(folder), show_progress=False)

    @classmethod
    def open(cls, folder: Path) -> Bm25:
        """Raises IndexFileError where the files are damaged."""
        bm25s = _bm25s()
        try:
            return cls(bm25s.BM25.load(str(folder), mmap=True, show_progress=False, verbosity=0))
        except (OSError, ValueError, KeyError) as error:
            raise IndexFileError(f"{folder} is damaged ({error}); {REBUILD}") from None

    def nearest(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Up to `k` passages that share a word with the query; ties go to the earlier row."""
        words = _tokenized(queries, self._stemmer, return_ids=False)
        known = self._engine.vocab_dict
        return [self._best([word for word in each if word in known], k) for each in words]

    def _best(self, words: list[str], k: int) -> Ranking:
        if not words:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores: NDArray[np.float32] = self._engine.get_scores(words)
        rows = top_rows(scores, k)
        return rows, scores[rows]


def top_rows(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` largest positive scores, largest first; equal ones in the order of rows."""
    k = min(k, int(np.count_nonzero(scores > 0)))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= least)
    return rows[np.lexsort((rows, -scores[rows]))[:k]]


def _tokenized(texts: Iterable[str], stemmer: Any, *, return_ids: bool) -> Any:
    return _bm25s().tokenize(
        [without_surrogates(text) for text in texts],
        token_pattern=_WORD,
        stopwords=[],
        stemmer=stemmer,
        return_ids=return_ids,
        show_progress=False,
    )


def check_installed() -> None:
    """Raises MissingPackageError unless BM25 can be built and searched here."""
    for module, package in (("bm25s", "bm25s"), ("Stemmer", "PyStemmer")):
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(package, "BM25 search")


def _bm25s() -> Any:
    check_installed()
    return importlib.import_module("bm25s")


def _stemmer() -> Any:
    return importlib.import_module("Stemmer").Stemmer(STEMMER)
