"""Approximate search by faiss, for corpora that are too large to scan: candidates, tuned.

The index only proposes candidates; `PassageIndex` scores them again from the stored vectors. How
far it looks (`nprobe`, `efSearch`) is measured against exact search when the index is built.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_index.errors import REBUILD, IndexFileError, MissingPackageError, RetrievalError
from retrieval_index.flat import FACTORY, Floats, Rows, drop_pages, has_faiss, search_blocks
from retrieval_index.progress import note, progress_bar

FLAT_ROWS = 1_000_000
"""Up to this many passages every vector is compared: exact, and nothing to train."""
_CENTROID_VECTORS = 64
"""Vectors that each centroid is trained on."""
_ADD_ROWS = 65_536
TARGET_RECALL = 0.95
CANDIDATES = (10, 40, 160)
"""How many passages may be scored again for each that is wanted."""
TUNED_K = 10
_TUNED_QUERIES = 500


def choose_factory(rows: int) -> tuple[str, str]:
    """faiss's name of the index type for a corpus of this size, and the reason."""
    if rows <= FLAT_ROWS:
        return FACTORY, f"{rows:,} passages: every vector is compared, which is exact"
    lists = 16_384 if rows <= 10_000_000 else 65_536
    reason = f"{rows:,} passages: {lists:,} lists of 8-bit vectors propose, the vectors decide"
    return f"IVF{lists}_HNSW32,SQ8", reason


@dataclass(frozen=True, slots=True)
class Tuning:
    """`parameters` in faiss's notation ("nprobe=16"), how many `candidates` are scored again for
    each passage wanted, and the recall@10 of both against exact search on sampled queries."""

    parameters: str
    candidates: int
    recall: float
    queries: int


def check_factory(factory: str, dimension: int, rows: int) -> None:
    """Raises RetrievalError for a type that faiss does not know, or that has more lists than there
    are passages; before anything is encoded."""
    if factory != FACTORY:
        _training_rows(_empty(factory, dimension), rows)


def bytes_per_vector(factory: str, dimension: int) -> int:
    """What each vector takes in an index of this type: its code, its id, its links."""
    index = _empty(factory, dimension)
    links = 4 * index.hnsw.nb_neighbors(0) if hasattr(index, "hnsw") else 0
    coded = _faiss(factory).downcast_index(index.storage) if links else index
    try:
        code = int(coded.sa_code_size())
    except RuntimeError:  # a type without codes keeps the vectors
        code = 4 * dimension
    return code + links + 8


def training_bytes(factory: str, dimension: int, rows: int) -> int:
    """What the vectors take that an index of this type is trained on."""
    index = _empty(factory, dimension)
    return 0 if index.is_trained else 4 * dimension * _training_rows(index, rows)


def build_approximate(
    vectors: Floats, factory: str, path: Path, seed: int = 0, progress: bool | None = False
) -> None:
    """Train an index of the type that `factory` names, add all vectors, and write it."""
    rows, dimension = vectors.shape
    index = _empty(factory, dimension)
    if not index.is_trained:
        note(f"training {factory}", progress)
        index.train(_sample(vectors, _training_rows(index, rows), seed))
    with progress_bar("indexing", rows, progress) as advance:
        for start in range(0, rows, _ADD_ROWS):
            block = np.ascontiguousarray(vectors[start : start + _ADD_ROWS])
            index.add(block)
            drop_pages(vectors)
            advance(len(block))
    path.parent.mkdir(exist_ok=True)
    _faiss(factory).write_index(index, str(path))


def _empty(factory: str, dimension: int) -> Any:
    faiss = _faiss(factory)
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        if getattr(index, "nlist", 1) < 1 or isinstance(index, faiss.IndexIDMap):
            raise RuntimeError("no lists, or ids of its own: vectors cannot be added by row")
        return index
    except RuntimeError:
        raise RetrievalError(
            f"index={factory!r}: faiss knows no such index for {dimension} dimensions; expected"
            " 'auto', 'Flat', or a factory string such as 'IVF1024,SQ8' or 'HNSW32'"
        ) from None


def _training_rows(index: Any, rows: int) -> int:
    lists = int(getattr(index, "nlist", 256))
    if lists > rows:
        raise RetrievalError(
            f"an index of {lists:,} lists needs at least as many passages, and there are {rows:,};"
            " choose fewer lists, or 'auto'"
        )
    return min(rows, lists * _CENTROID_VECTORS)


def _sample(vectors: Floats, count: int, seed: int) -> Floats:
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), size=count, replace=False))
    sample = np.empty((count, vectors.shape[1]), dtype=np.float32)
    for start in range(0, count, _ADD_ROWS):
        block = rows[start : start + _ADD_ROWS]
        sample[start : start + len(block)] = vectors[block]
        drop_pages(vectors)
    return sample


class Approximate:
    """An index of faiss, memory-mapped where faiss can, searched with tuned parameters."""

    def __init__(self, path: Path, rows: int, parameters: str = "") -> None:
        """Raises IndexFileError where the file is damaged or has another number of vectors."""
        faiss = _faiss(path.name)
        try:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexFileError(f"{path} is damaged ({error}); {REBUILD}") from None
        if self._index.ntotal != rows:
            raise IndexFileError(
                f"{path} has {self._index.ntotal:,} vectors, expected {rows:,}; {REBUILD}"
            )
        self._space = faiss.ParameterSpace()
        self._space.initialize(self._index)
        self.set_parameters(parameters)

    def set_parameters(self, parameters: str) -> None:
        """Search with these parameters from now on."""
        if parameters:
            self._space.set_index_parameters(self._index, parameters)

    def candidates(self, queries: Floats, k: int) -> list[Rows]:
        """Up to `k` rows for each query, in no particular order."""
        _, rows = self._index.search(queries, k)
        # faiss fills what it did not find with -1, which as a row would be the last passage.
        return [found[found >= 0] for found in rows]

    def settings(self) -> Iterator[str]:
        """Parameters to try, from fast to thorough; one empty setting where there are none."""
        ranges = self._space.parameter_ranges
        names = {ranges.at(number).name for number in range(ranges.size())}
        if "nprobe" in names:  # faiss's own range for it ends at half of the lists
            lists = importlib.import_module("faiss").extract_index_ivf(self._index).nlist
            yield from (f"nprobe={value}" for value in _doubled(1, lists))
        elif "efSearch" in names:
            yield from (f"efSearch={value}" for value in _doubled(16, 1024))
        else:
            yield ""


def _doubled(start: int, end: int) -> list[int]:
    """start, 2 start, 4 start, ... and `end`."""
    doublings = range(max(1, (end // start).bit_length()))
    return sorted({min(start << power, end) for power in doublings} | {end})


def tune(index: Approximate, vectors: Floats, queries: Floats) -> Tuning:
    """The first setting that reaches a recall@10 of 0.95 against exact search, or the most
    thorough one if none does: first more lists or links, then more candidates."""
    k = min(TUNED_K, len(vectors))
    exact = search_blocks(queries, vectors, k)
    tuning = Tuning("", CANDIDATES[0], 0.0, len(queries))
    for candidates, parameters in product(CANDIDATES, index.settings()):
        index.set_parameters(parameters)
        found = index.candidates(queries, min(candidates * k, len(vectors)))
        hits = sum(len(np.intersect1d(one, other)) for one, other in zip(found, exact, strict=True))
        tuning = Tuning(parameters, candidates, hits / exact.size, len(queries))
        if tuning.recall >= TARGET_RECALL:
            break
    return tuning


def tuning_rows(rows: int, seed: int = 0) -> Rows:
    """Passages whose titles and first words serve as queries."""
    count = min(_TUNED_QUERIES, rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=count, replace=False))


def _faiss(what: str) -> Any:
    if not has_faiss():
        raise MissingPackageError("faiss-cpu", f"an index of type {what}")
    return importlib.import_module("faiss")
