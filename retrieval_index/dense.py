"""The faiss part: making, storing, opening and searching a vector index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_index.errors import REBUILD, IndexFileError, MissingPackageError

FACTORY = "Flat"
METRIC = "inner_product"
_SCAN_QUERIES = 4
"""From this many queries (per thread) on, a matrix product beats scanning the vectors once for
each query; measured by benchmarks/blas_threshold.py."""


def load_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingPackageError("faiss", "a passage index") from None
    return faiss


def write_dense(blocks: Iterable[NDArray[np.float32]], dimension: int, path: Path) -> int:
    """Store an exact inner-product index of the vectors; returns their number."""
    faiss = load_faiss()
    index = faiss.index_factory(dimension, FACTORY, faiss.METRIC_INNER_PRODUCT)
    for block in blocks:
        index.add(np.ascontiguousarray(block))
    path.parent.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(path))
    return int(index.ntotal)


class DenseSearcher:
    """A stored faiss index."""

    def __init__(self, path: Path) -> None:
        self._faiss = load_faiss()
        try:
            self._index = self._faiss.read_index(str(path))
        except RuntimeError as error:
            # faiss's message is a C++ stack of file, line and condition.
            raise IndexFileError(f"{path} is damaged; {REBUILD}") from error
        self.rows = int(self._index.ntotal)
        self.dimension = int(self._index.d)

    def search(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows [n, k], best first; `k` is at most `rows`."""
        set_blas_threshold(self._faiss, self.dimension)
        return self._index.search(vectors, k)


def set_blas_threshold(faiss: Any, dimension: int) -> None:
    """Let faiss use matrix products from a few queries on.

    Since 1.14.2 faiss scans all vectors once per query unless queries × dimension reaches
    128,000, that is 334 queries of 384 dimensions, though on one thread a matrix product wins
    from about 4 queries (5.9 times faster at 64; upstream PR #5109 finds the crossover to grow
    with the threads). The setting is one global of the process, so it is set before each search,
    for that search's dimension. Which passages are found does not depend on it.
    """
    version = tuple(int(part) for part in faiss.__version__.split(".")[:3])
    if version >= (1, 14, 2):  # before, the unit was queries and the default a good 20
        threads = faiss.omp_get_max_threads()
        faiss.cvar.distance_compute_blas_threshold = _SCAN_QUERIES * dimension * threads
