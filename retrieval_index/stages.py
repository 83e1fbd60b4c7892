"""The steps of a build: store the passages, encode them, index vectors and words, commit.

Each notes in the build state that it is done, and is skipped when a build is resumed.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from retrieval_index import flat
from retrieval_index.approximate import Approximate, build_approximate, tune, tuning_rows
from retrieval_index.bm25 import K1, METHOD, STEMMER, B, Bm25
from retrieval_index.build_state import BuildState
from retrieval_index.cluster import encode_on_ray
from retrieval_index.documents import Document
from retrieval_index.encoders import (
    Encoder,
    HashingEncoder,
    SentenceTransformerEncoder,
    Vectors,
    precision_of,
    prompts_of,
)
from retrieval_index.errors import CorpusError, EncoderError
from retrieval_index.index import ID_ENTRY, id_hash
from retrieval_index.manifest import (
    BM25_FOLDER,
    DENSE_FILE,
    ENCODER_FILE,
    IDS_FILE,
    MANIFEST,
    VECTORS_FILE,
    Bm25Record,
    CorpusRecord,
    DenseRecord,
    EncoderRecord,
    Manifest,
    commit,
    describe_files,
    file_sha256,
    write_manifest,
)
from retrieval_index.passages import TEXT_FILE, PassageStore, write_passages
from retrieval_index.progress import note, progress_bar
from retrieval_index.words import Words

BATCH = 128
"""Passages encoded between two writes: memory does not grow with the corpus, and the progress bar
moves every few seconds even where a model manages ten passages a second."""
_SHARD = 32 * BATCH
"""Passages encoded between two checkpoints: as many are lost when a build is killed. A multiple of
the batch, so that a resumed build makes the same batches, and with them the same bits."""


_PRECISION_SAMPLE = 64


def store_passages(
    passages: Iterable[Document],
    source: str,
    chunk: int | None,
    work: BuildState,
    progress: bool | None,
) -> CorpusRecord:
    """Write the passages and the table of their ids, unless that was done."""
    if (done := work.done("corpus")) is not None:
        return CorpusRecord(**done)
    shutil.rmtree((work.folder / TEXT_FILE).parent, ignore_errors=True)
    hashes = array("Q")
    with progress_bar("reading", None, progress) as advance:

        def counted() -> Iterable[Document]:
            for passage in passages:
                hashes.append(id_hash(passage.id))
                advance(1)
                yield passage

        rows = write_passages(counted(), work.folder)
    entries = np.empty(rows, dtype=ID_ENTRY)
    entries["hash"], entries["row"] = hashes, np.arange(rows)
    entries.sort(order=["hash", "row"])
    _check_distinct(entries, PassageStore(work.folder), source)
    np.save(work.folder / IDS_FILE, entries)
    record = CorpusRecord(source, rows, file_sha256(work.folder / TEXT_FILE), chunk)
    work.finish("corpus", asdict(record))
    return record


def _check_distinct(entries: NDArray[np.void], passages: PassageStore, source: str) -> None:
    """By the sorted hashes, since a set of all ids would take gigabytes for a large corpus."""
    hashes = entries["hash"]
    for place in np.flatnonzero(hashes[1:] == hashes[:-1]):
        seen: dict[str, int] = {}
        for row in entries["row"][hashes == hashes[place]].tolist():
            passage_id = passages[row].id
            if passage_id in seen:
                raise CorpusError(
                    f"corpus {source}: passages {seen[passage_id] + 1:,} and {row + 1:,} have the"
                    f" same id {passage_id!r}; every passage needs its own"
                )
            seen[passage_id] = row


def fit(encoder: Encoder, work: BuildState) -> Encoder:
    """A hashing encoder that has seen the passages; others are ready as they are."""
    if not isinstance(encoder, HashingEncoder):
        return encoder
    path = work.folder / ENCODER_FILE
    if not work.done("fit"):
        fitted = encoder.fit(passage.contents for passage in PassageStore(work.folder))
        path.parent.mkdir(exist_ok=True)
        np.save(path, fitted.document_frequency)
        work.finish("fit")
    return HashingEncoder(encoder.dimension, np.load(path))


def encode(
    encoder: Encoder, work: BuildState, progress: bool | None, ray: str | None = None
) -> int:
    """Fill the file of vectors; returns how many passages were longer than the encoder reads."""
    passages = PassageStore(work.folder)
    rows = len(passages)
    done, truncated = work.done("encoded") or (0, 0)
    vectors = vectors_file(work.folder / VECTORS_FILE, (rows, encoder.dimension), done)
    step = _SHARD if ray else BATCH
    pieces = (
        [passages[row].contents for row in range(start, min(start + step, rows))]
        for start in range(done, rows, step)
    )
    results = (
        encode_on_ray(encoder, pieces, ray, encode_texts)
        if ray
        else (encode_texts(encoder, piece) for piece in pieces)
    )
    start = done
    with progress_bar("encoding", rows, progress, done) as advance:
        for encoded, cut in results:
            end = start + len(encoded)
            _check_vectors(encoded, lambda row, start=start: passages[start + row].id, encoder)
            vectors[start:end] = encoded
            truncated += cut
            if start // _SHARD < end // _SHARD or end == rows:
                vectors.flush()
                flat.drop_pages(vectors)
                work.finish("encoded", (end, truncated))
            advance(end - start)
            start = end
    if truncated:
        note(f"{truncated:,} passages are longer than {encoder.name} reads: --chunk", progress)
    return truncated


def measure_precision(encoder: Encoder, work: BuildState) -> float:
    """The least cosine of some vectors to those in float32, which is 1 where that is computed."""
    if not isinstance(encoder, SentenceTransformerEncoder) or encoder.precision == "float32":
        return 1.0
    if (cosine := work.done("cosine")) is None:
        passages = PassageStore(work.folder)
        rows = np.linspace(0, len(passages) - 1, _PRECISION_SAMPLE, dtype=int).tolist()
        cosine = encoder.cosine_to_float32([passages[row].contents for row in rows])
        work.finish("cosine", cosine)
    return cosine


def encode_texts(encoder: Encoder, texts: list[str]) -> tuple[Vectors, int]:
    """Vectors, a batch at a time, and how many texts are longer than the encoder reads."""
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    vectors = np.concatenate([_encoded(encoder, batch) for batch in batches])
    counts = isinstance(encoder, SentenceTransformerEncoder)
    return vectors, encoder.count_truncated(texts) if counts else 0


def _encoded(encoder: Encoder, batch: list[str]) -> Vectors:
    vectors = encoder.encode_passages(batch)
    if vectors.shape != (len(batch), encoder.dimension):
        raise EncoderError(
            f"encoder {encoder.name!r} gave vectors of shape {vectors.shape}:"
            f" expected {(len(batch), encoder.dimension)}"
        )
    return vectors


def vectors_file(path: Path, shape: tuple[int, int], done: int) -> Any:
    """The file of vectors, written in place; new if none is encoded yet."""
    if done:
        return open_memmap(path, "r+")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    return open_memmap(path, "w+", np.float32, shape)


def index_vectors(
    encoder: Encoder, factory: str, rows: int, work: BuildState, progress: bool | None
) -> DenseRecord:
    """Build and tune what proposes candidates, unless every vector is compared."""
    if factory == flat.FACTORY:
        return DenseRecord(factory, flat.METRIC, rows)
    if (tuned := work.done("dense")) is None:
        vectors: Vectors = open_memmap(work.folder / VECTORS_FILE, "r")
        path = work.folder / DENSE_FILE
        build_approximate(vectors, factory, path, progress=progress)
        passages = PassageStore(work.folder)
        texts = [_as_query(passages[row]) for row in tuning_rows(rows).tolist()]
        queries = np.ascontiguousarray(encoder.encode_queries(texts), dtype=np.float32)
        tuned = asdict(tune(Approximate(path, rows), vectors, queries))
        work.finish("dense", tuned)
    return DenseRecord(factory, flat.METRIC, rows, **tuned)


def _as_query(passage: Document) -> str:
    """A title and the first words, where no real queries are known."""
    return f"{passage.title} {' '.join(passage.text.split()[:8])}".strip()


def index_words(words: Words | None, work: BuildState, progress: bool | None) -> None:
    """Build BM25, unless it is not wanted (None) or was done."""
    if words is None or work.done("bm25"):
        return
    note("indexing words", progress)
    shutil.rmtree(work.folder / BM25_FOLDER, ignore_errors=True)
    texts = (passage.contents for passage in PassageStore(work.folder))
    Bm25.build(texts, work.folder / BM25_FOLDER, words)
    work.finish("bm25")


def _check_vectors(vectors: Vectors, name: Callable[[int], str], encoder: Encoder) -> None:
    # Written so that a length which is not a number counts as wrong.
    wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if wrong.any():
        raise EncoderError(
            f"encoder {encoder.name!r} gave passage {name(int(wrong.argmax()))!r} a vector that is"
            " not of length 1"
        )


def finish(manifest: Manifest, work: BuildState) -> None:
    """Write the manifest of the files that are there, and make them the live generation."""
    for path in work.folder.glob(f"{MANIFEST}*"):  # of a commit that was killed
        path.unlink()
    write_manifest(replace(manifest, files=describe_files(work.folder)), work.folder)
    work.finish("committing")
    commit(work.folder, work.target)
    work.discard()


def make_manifest(
    corpus: CorpusRecord,
    encoder: Encoder,
    dense: DenseRecord,
    words: Words | None,
    truncated: int = 0,
    cosine: float = 1.0,
) -> Manifest:
    """What the finished index will say of itself."""
    precision = precision_of(encoder)
    return Manifest(
        corpus,
        EncoderRecord(
            encoder.name,
            encoder.dimension,
            encoder.fingerprint,
            precision,
            cosine,
            prompts_of(encoder).query,
            prompts_of(encoder).passage,
        ),
        dense,
        files=(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"numpy": np.__version__},
        bm25=Bm25Record(K1, B, METHOD, STEMMER, words) if words else None,
        truncated=truncated,
    )
