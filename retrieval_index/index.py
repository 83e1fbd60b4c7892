"""A passage index on disk, opened and searched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval_index.approximate import Approximate
from retrieval_index.bm25 import Bm25, Ranking
from retrieval_index.documents import Document
from retrieval_index.encoders import Encoder, HashingEncoder, Prompts, Vectors, make_encoder
from retrieval_index.errors import REBUILD, EncoderError, IndexFileError
from retrieval_index.flat import FACTORY, search_flat
from retrieval_index.fusion import DEPTH, reciprocal_rank_fusion
from retrieval_index.manifest import (
    BM25_FOLDER,
    DENSE_FILE,
    ENCODER_FILE,
    IDS_FILE,
    VECTORS_FILE,
    Manifest,
    check_files,
    live_generation,
    load_array,
    read_manifest,
)
from retrieval_index.passages import PassageStore

Mode = Literal["dense", "bm25", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "bm25", "hybrid")
ID_ENTRY = np.dtype([("hash", "<u8"), ("row", "<i8")])
_BLOCK = 256
"""Queries searched at a time: matrix products gain nothing from more."""
_MARGIN = 16
"""Candidates fetched beyond `k` by exact search, and passages that candidates are for at least."""


class PassageIndex:
    """Passages, their vectors and a dense index; a `SearchEngine`. Make one by `open`."""

    def __init__(
        self,
        generation: Path,
        manifest: Manifest,
        encoder: Encoder | None,
        mode: Mode | None = None,
    ) -> None:
        self.generation = generation
        self.manifest = manifest
        self._given_encoder = encoder
        self.encoder = _encoder_of(manifest, generation, encoder)
        self.passages = PassageStore(generation)
        self._ids: NDArray[np.void] = load_array(generation / IDS_FILE)
        self.vectors: Vectors = load_array(generation / VECTORS_FILE)
        dense = manifest.dense
        self._approximate = (
            None
            if dense.factory == FACTORY
            else Approximate(generation / DENSE_FILE, dense.rows, dense.parameters)
        )
        words = manifest.bm25
        self._bm25 = Bm25.open(generation / BM25_FOLDER, words.words) if words else None
        usual, reason = usual_mode(manifest)
        self.mode: Mode = self._checked(mode or usual)
        self.mode_reason = "as asked for" if mode else reason
        self._check_sizes()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        mode: Mode | None = None,
        verify: bool = False,
    ) -> PassageIndex:
        """Open the live generation of an index folder.

        Sizes are always checked, and with `verify` the hash of every file. `encoder` stands in
        for the one that the manifest names and must have its fingerprint. `mode` is how it
        searches: "dense", "bm25" or "hybrid"; where words are indexed, the default is "bm25" over
        a hashing encoder and "hybrid" over a model. Raises IndexFileError or EncoderError.
        """
        folder = Path(path)
        generation = live_generation(folder)
        if generation is None:
            raise IndexFileError(
                f"{folder} holds no index; make one: python scripts/build_index.py"
                f" --corpus passages.jsonl --out {folder}"
            )
        return _open_generation(generation, encoder, mode, verify=verify)

    def __deepcopy__(self, memo: object) -> PassageIndex:
        """Itself, since nothing in it changes: `env.spec` may copy arguments as it likes."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by its place on disk."""
        return _open_generation, (self.generation, self._given_encoder, self.mode)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def search(
        self, queries: Sequence[str], k: int = 5, mode: Mode | None = None
    ) -> list[list[Document]]:
        """The `k` best passages for each query, best first (fewer if there are no more).

        `mode` is that of the index if it is None. A document's score is the cosine of query and
        passage ("dense"), BM25's ("bm25") or the sum of reciprocal ranks in both ("hybrid"); ties
        go to the earlier row. What a query finds does not depend on the others in the batch.
        Raises ValueError for k < 1, one string instead of a list, and an empty query.
        """
        check_request(queries, k)
        mode = self.mode if mode is None else self._checked(mode)
        if not queries:
            return []
        # Rollouts of one question ask the same things: each different query is searched once.
        distinct = list(dict.fromkeys(queries))
        found: dict[str, list[Document]] = {}
        for start in range(0, len(distinct), _BLOCK):
            block = distinct[start : start + _BLOCK]
            for query, ranking in zip(block, self._ranked(block, k, mode), strict=True):
                found[query] = self._documents(*ranking)
        return [list(found[query]) for query in queries]

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The passages with these ids. Raises KeyError for an unknown one."""
        return [self.passages[self.row(passage_id)] for passage_id in ids]

    def row(self, passage_id: str) -> int:
        """Where the passage with this id lies. Raises KeyError for an unknown one."""
        wanted = np.uint64(id_hash(passage_id))
        place = int(np.searchsorted(self._ids["hash"], wanted))
        while place < len(self._ids) and self._ids["hash"][place] == wanted:
            row = int(self._ids["row"][place])
            if self.passages[row].id == passage_id:
                return row
            place += 1
        raise KeyError(f"no passage has the id {passage_id!r}")

    def _ranked(self, queries: list[str], k: int, mode: Mode) -> list[Ranking]:
        if mode == "hybrid":
            dense = self._ranked(queries, max(k, DEPTH), "dense")
            lexical = self._ranked(queries, max(k, DEPTH), "bm25")
            pairs = zip(dense, lexical, strict=True)
            return [reciprocal_rank_fusion([one[0], other[0]], k) for one, other in pairs]
        if mode == "bm25":
            assert self._bm25 is not None
            return self._bm25.nearest(queries, k)
        vectors = self._encoded(queries)
        if self._approximate is None:
            rows, scores = self._nearest(vectors, min(k, len(self)))
            return list(zip(rows, scores, strict=True))
        wanted = max(k, _MARGIN) * self.manifest.dense.candidates
        proposed = self._approximate.candidates(vectors, min(wanted, len(self)))
        pairs = zip(vectors, proposed, strict=True)
        return [self._scored(vector, candidates, k) for vector, candidates in pairs]

    def _checked(self, mode: Mode) -> Mode:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
        if mode != "dense" and self._bm25 is None:
            raise ValueError(f"mode={mode!r}: {self.generation} was built without BM25")
        return mode

    def _encoded(self, queries: list[str]) -> Vectors:
        vectors = np.ascontiguousarray(self.encoder.encode_queries(queries), dtype=np.float32)
        if (
            vectors.shape != (len(queries), self.encoder.dimension)
            or not np.isfinite(vectors).all()
        ):
            raise EncoderError(
                f"encoder {self.encoder.name!r} gave queries of shape {vectors.shape} or values"
                f" that are not finite: expected {(len(queries), self.encoder.dimension)}"
            )
        return vectors

    def _nearest(self, queries: Vectors, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores [n, k], exact and in a fixed order.

        faiss rounds differently when it scans and when it multiplies, so its candidates are
        scored again from the stored vectors, always in the same way. A query is settled when its
        k-th score is above all that was not fetched by more than rounding can hide; the others
        fetch twice as many.
        """
        rows = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        rounding = self.encoder.dimension * 2.0**-23
        pending, fetch = np.arange(len(queries)), k + _MARGIN
        while pending.size:
            fetch = min(fetch, len(self))
            rough, candidates = search_flat(queries[pending], self.vectors, fetch)
            for number, found in zip(pending.tolist(), candidates, strict=True):
                rows[number], scores[number] = self._scored(queries[number], found, k)
            settled = scores[pending, -1] > rough[:, -1] + rounding
            pending = pending[~settled & (fetch < len(self))]
            fetch *= 2
        return rows, scores

    def _scored(self, query: Vectors, candidates: NDArray[np.int64], k: int) -> Ranking:
        """The best `k` of the candidates by their stored vectors, always computed alike."""
        exact = (self.vectors[candidates] * query).sum(axis=1)
        order = np.lexsort((candidates, -exact))[:k]
        return candidates[order], exact[order]

    def _documents(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Document]:
        passages = (self.passages[row] for row in rows.tolist())
        return [
            Document(passage.id, passage.title, passage.text, score)
            for passage, score in zip(passages, scores.tolist(), strict=True)
        ]

    def _check_sizes(self) -> None:
        rows, dimension = self.manifest.dense.rows, self.manifest.encoder.dimension
        counts = {len(self.passages), len(self._ids), len(self.vectors), self.manifest.corpus.rows}
        if counts != {rows} or self.vectors.shape != (rows, dimension):
            raise IndexFileError(
                f"{self.generation}: its files disagree on the number or size of vectors"
                f" ({sorted(counts)} rows, shape {self.vectors.shape}); {REBUILD}"
            )


def usual_mode(manifest: Manifest) -> tuple[Mode, str]:
    """How an index searches unless told otherwise, and the reason (measured: docs/indexes)."""
    if manifest.bm25 is None:
        return "dense", "it holds no words"
    if manifest.encoder.name == HashingEncoder.name:
        return "bm25", "hashed vectors add nothing to BM25 on real questions"
    return "hybrid", "a model and BM25 together find most on average over real questions"


def _open_generation(
    generation: Path, encoder: Encoder | None, mode: Mode | None, *, verify: bool = False
) -> PassageIndex:
    manifest = read_manifest(generation)
    check_files(manifest, generation, hashes=verify)
    return PassageIndex(generation, manifest, encoder, mode)


def id_hash(passage_id: str) -> int:
    digest = hashlib.blake2b(passage_id.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def check_request(queries: Sequence[str], k: int) -> None:
    """Raises ValueError for k < 1, one string instead of a list, and an empty query."""
    if k < 1:
        raise ValueError(f"k={k}: expected at least 1")
    if isinstance(queries, str):
        raise ValueError(f"queries={queries!r}: expected a list of strings, not one string")
    for number, query in enumerate(queries):
        if not query.strip():
            raise ValueError(f"query {number} is empty: expected some text to search for")


def _encoder_of(manifest: Manifest, generation: Path, given: Encoder | None) -> Encoder:
    record = manifest.encoder
    encoder = given
    if encoder is None and record.name == HashingEncoder.name:
        encoder = HashingEncoder(record.dimension, load_array(generation / ENCODER_FILE))
    if encoder is None:
        _check_place(record.name, generation)
        prompts = Prompts(record.query_prompt, record.passage_prompt)
        encoder = make_encoder(record.name, prompts=prompts)
    if (encoder.dimension, encoder.fingerprint) != (record.dimension, record.fingerprint):
        raise EncoderError(
            f"{generation} was built with encoder {record.name!r} ({record.dimension} dimensions,"
            f" fingerprint {record.fingerprint[:12]}) and this is {encoder.name!r}"
            f" ({encoder.dimension}, {encoder.fingerprint[:12]}); use that encoder or build again"
        )
    return encoder


def _check_place(encoder: str, generation: Path) -> None:
    """A model beside the passages came with the index, and opening a model can run its code."""
    if Path(encoder).resolve().is_relative_to(generation.parent.resolve()):
        raise EncoderError(
            f"{generation} names a model inside the index ({encoder!r}): expected one of the Hub or"
            " of this machine; give the encoder yourself if you trust it"
        )
