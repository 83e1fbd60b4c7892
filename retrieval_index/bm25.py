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
from retrieval_index.words import Words, splitter

K1, B = 0.9, 0.4
"""Pyserini's defaults for passages."""
STEMMER = "english"
METHOD = "lucene"
Ranking = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows and scores of one query, best first."""


class Bm25:
    """BM25 over the passages of an index. Make one by `build` or `open`."""

    def __init__(self, engine: Any, words: Words) -> None:
        self._engine = engine
        self._split = splitter(words)
        self._stemmer = _stemmer()

    @classmethod
    def build(cls, texts: Iterable[str], folder: Path, words: Words) -> None:
        """Index `texts` and save to `folder`. Needs memory for all their tokens at once."""
        bm25s = _bm25s()
        numbers, vocabulary = _numbered(texts, words)
        if not vocabulary:
            raise CorpusError("no passage has a word in it: build without BM25 (--no-bm25)")
        engine = bm25s.BM25(k1=K1, b=B, method=METHOD)
        engine.index((numbers, vocabulary), show_progress=False)
        folder.mkdir()
        engine.save(str(folder), show_progress=False)

    @classmethod
    def open(cls, folder: Path, words: Words) -> Bm25:
        """Raises IndexFileError where the files are damaged."""
        bm25s = _bm25s()
        try:
            engine = bm25s.BM25.load(str(folder), mmap=True, show_progress=False, verbosity=0)
        except (OSError, ValueError, KeyError) as error:
            raise IndexFileError(f"{folder} is damaged ({error}); {REBUILD}") from None
        return cls(engine, words)

    def nearest(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """Up to `k` passages that share a word with the query; ties go to the earlier row."""
        known = self._engine.vocab_dict
        words = [self._stemmer.stemWords(self._split(without_surrogates(text))) for text in queries]
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


def _numbered(texts: Iterable[str], words: Words) -> tuple[list[list[int]], dict[str, int]]:
    """The stems of each text by number, and the numbers: in the order in which they first come, so
    that the same texts give the same bytes in every process."""
    split, stem = splitter(words), _stemmer().stemWord
    number_of: dict[str, int] = {}
    vocabulary: dict[str, int] = {}
    numbered: list[list[int]] = []
    for text in texts:
        numbers: list[int] = []
        for word in split(without_surrogates(text)):
            if (number := number_of.get(word)) is None:
                number = vocabulary.setdefault(stem(word), len(vocabulary))
                number_of[word] = number
            numbers.append(number)
        numbered.append(numbers)
    return numbered, vocabulary


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
