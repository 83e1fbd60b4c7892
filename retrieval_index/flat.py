"""Exact search: inner products with every vector, by faiss, or by numpy where faiss is not there.

The vectors are the index: nothing but the memory-mapped file of them is opened or stored.
"""

from __future__ import annotations

import importlib
import importlib.util
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

FACTORY = "Flat"
METRIC = "inner_product"
_SCAN_QUERIES = 4
"""From this many queries on, a matrix product beats scanning the vectors once for each query;
measured by benchmarks/blas_threshold.py, on one thread and on two."""
_BLOCK_ROWS = 65_536


def has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def search_flat(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Rows]:
    """The `k` largest inner products of each query, largest first.

    Shapes: queries [n, d], vectors [rows, d], both float32; scores and rows [n, k], k <= rows.
    faiss and numpy may differ in the last bits of a score, and in the order of equal ones.
    """
    if has_faiss():
        faiss = importlib.import_module("faiss")
        set_blas_threshold(faiss, vectors.shape[1])
        return faiss.knn(queries, np.asarray(vectors), k, metric=faiss.METRIC_INNER_PRODUCT)
    return search_numpy(queries, vectors, k)


def search_blocks(queries: Floats, vectors: Floats, k: int) -> Rows:
    """The rows of `search_flat`, in no order, without holding more than a block in memory."""
    scores = np.zeros((len(queries), 0), dtype=np.float32)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        found, places = search_flat(queries, block, min(k, len(block)))
        scores, rows = _best(np.hstack([scores, found]), np.hstack([rows, places + start]), k)
        drop_pages(vectors)
    return rows


def drop_pages(vectors: Floats) -> None:
    """Take the pages of a memory-mapped array out of this process; the file keeps them."""
    mapped = getattr(vectors, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def search_numpy(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Rows]:
    """`search_flat` in numpy alone, a block of vectors at a time."""
    scores = np.full((len(queries), 0), 0, dtype=np.float32)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = queries @ vectors[start : start + _BLOCK_ROWS].T
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, rows = _best(np.hstack([scores, block]), np.hstack([rows, numbers]), k)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _best(scores: Floats, rows: Rows, k: int) -> tuple[Floats, Rows]:
    if scores.shape[1] <= k:
        return scores, rows
    chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, chosen, 1), np.take_along_axis(rows, chosen, 1)


def set_blas_threshold(faiss: Any, dimension: int) -> None:
    """Let faiss use matrix products from a few queries on.

    Since 1.14.2 faiss scans all vectors once per query unless queries × dimension reaches
    128,000, that is 334 queries of 384 dimensions, though a matrix product wins from about 4
    queries (8 times faster at 64). The setting is one global of the process, so
    it is set before each search, for that search's dimension. Which passages are found does not
    depend on it.
    """
    version = tuple(int(part) for part in faiss.__version__.split(".")[:3])
    if version >= (1, 14, 2):  # before, the unit was queries and the default a good 20
        faiss.cvar.distance_compute_blas_threshold = _SCAN_QUERIES * dimension
