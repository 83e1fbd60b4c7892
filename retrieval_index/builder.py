"""Corpus to index folder: store the passages, encode them, index their words, commit."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from retrieval_index import flat
from retrieval_index.approximate import (
    Approximate,
    build_approximate,
    choose_factory,
    tune,
    tuning_rows,
)
from retrieval_index.bm25 import K1, METHOD, STEMMER, B, Bm25, check_installed
from retrieval_index.corpus import (
    Source,
    check_corpus,
    check_passages,
    corpus_fingerprint,
    corpus_name,
    read_corpus,
    split_passages,
)
from retrieval_index.documents import Document
from retrieval_index.encoders import (
    Encoder,
    HashingEncoder,
    SentenceTransformerEncoder,
    Vectors,
    make_encoder,
)
from retrieval_index.errors import CorpusError, EncoderError, IndexExistsError
from retrieval_index.index import ID_ENTRY, PassageIndex, id_hash
from retrieval_index.manifest import (
    BM25_FOLDER,
    CURRENT,
    DENSE_FILE,
    ENCODER_FILE,
    IDS_FILE,
    MANIFEST,
    VECTORS_FILE,
    Bm25Record,
    CorpusRecord,
    DenseRecord,
    EncoderRecord,
    FileRecord,
    Manifest,
    commit,
    describe_files,
    file_sha256,
    live_generation,
    read_manifest,
    write_manifest,
)
from retrieval_index.passages import TEXT_FILE, PassageStore, write_passages
from retrieval_index.progress import note, progress_bar
from retrieval_index.workplace import FOLDER, Plan, Workplace, locked

_BATCH = 128
"""Passages encoded between two writes: memory does not grow with the corpus, and the progress bar
moves every few seconds even where a model manages ten passages a second."""
_SHARD = 32 * _BATCH
"""Passages encoded between two checkpoints: as many are lost when a build is killed. A multiple of
the batch, so that a resumed build makes the same batches, and with them the same bits."""
_SPARE_BYTES = 64 << 20


def build_index(
    corpus: Source | Iterable[Document],
    out: str | Path,
    encoder: str | Encoder = "hashing",
    *,
    index: str = "auto",
    bm25: bool = True,
    chunk: int | None = None,
    restart: bool = False,
    progress: bool | None = None,
) -> PassageIndex:
    """Index a corpus (see `read_corpus`), or passages, into the folder `out`, and open the result.

    `encoder` is a name for `make_encoder` or an encoder; a hashing encoder is fitted to the
    corpus. `index` is "auto" (by the number of passages: see `choose_factory`), "Flat", which is
    exact, or a factory string of faiss, which is tuned to a recall of 0.95. `bm25` adds lexical
    search, and so hybrid search. `chunk` splits passages of more than so many words.
    `progress=None` shows a bar when stderr is a terminal.

    A build from a corpus that was stopped, or killed, goes on when it is called again with the same
    corpus, encoder and options; `restart` begins anew. An `out` that already holds this very index
    is opened as it is; one that holds anything else raises IndexExistsError. Raises CorpusError,
    EncoderError, MissingPackageError, and OSError where the disk is too small.
    """
    target = Path(out)
    _check_target(target)
    stored = isinstance(corpus, str | Path)
    if stored:
        check_corpus(corpus)  # before a model is loaded
    if bm25:
        check_installed()
    if chunk is not None and chunk < 1:
        raise CorpusError(f"chunk={chunk}: expected at least 1 word")
    chosen = make_encoder(encoder) if isinstance(encoder, str) else encoder
    with locked(target):
        plan = _plan(corpus, chosen, index, bm25, chunk)
        work = Workplace(target, plan, restart=restart)
        try:
            return _build(corpus, work, chosen, plan, progress)
        finally:
            # What was read from a program cannot be checked to be the same the next time, and a
            # corpus with a mistake in it will be another one.
            if not stored or work.done("corpus") is None:
                work.discard()


def _build(
    corpus: Source | Iterable[Document],
    work: Workplace,
    encoder: Encoder,
    plan: Plan,
    progress: bool | None,
) -> PassageIndex:
    record = _store_corpus(corpus, work, plan["chunk"], progress)
    factory, reason = choose_factory(record.rows)
    if plan["index"] != "auto":
        factory, reason = plan["index"], "as asked for"
    encoder = _fitted(encoder, work)
    lexical = Bm25Record(K1, B, METHOD, STEMMER) if plan["bm25"] else None
    existing = live_generation(work.target)
    if existing is None:
        megabytes = 4e-6 * record.rows * encoder.dimension
        note(f"index: {factory} ({reason}); vectors: {megabytes:,.1f} MB", progress)
        truncated = _encode(encoder, work, progress)
        dense = _index_vectors(encoder, factory, record.rows, work)
        _index_words(plan["bm25"], work)
        for path in work.folder.glob(f"{MANIFEST}*"):  # of a commit that was killed
            path.unlink()
        files = describe_files(work.folder)
        manifest = _manifest(record, encoder, dense, lexical, files, truncated)
        write_manifest(manifest, work.folder)
        work.finish("committing")
        commit(work.folder, work.target)
        work.discard()
    else:
        dense = DenseRecord(factory, flat.METRIC, record.rows)
        wanted = _manifest(record, encoder, dense, lexical)
        work.discard()
        _check_same(wanted, read_manifest(existing), work.target)
    return PassageIndex.open(work.target, encoder=encoder)


def _plan(
    corpus: Source | Iterable[Document],
    encoder: Encoder,
    index: str,
    bm25: bool,
    chunk: int | None,
) -> Plan:
    stored = isinstance(corpus, str | Path)
    return {
        "corpus": corpus_name(corpus) if stored else "a list of passages",
        # Of a list that is gone nobody knows whether the next one is the same.
        "corpus_sha256": corpus_fingerprint(corpus) if stored else uuid4().hex,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "index": index,
        "bm25": bm25,
        "chunk": chunk,
    }


def _check_target(target: Path) -> None:
    """Refuse early what could never be written."""
    if target.is_file():
        raise IndexExistsError(f"{target} is a file; expected a folder for the index")
    if not target.is_dir() or live_generation(target) is not None:
        return
    ours = ("gen-", FOLDER, CURRENT)
    strange = [p.name for p in target.iterdir() if not p.name.startswith(ours)]
    if strange:
        raise IndexExistsError(
            f"{target} holds other files ({sorted(strange)[0]!r}); choose an empty or new folder"
        )


def _check_same(wanted: Manifest, existing: Manifest, target: Path) -> None:
    if wanted.fingerprint != existing.fingerprint:
        raise IndexExistsError(
            f"{target} already holds a different index ({existing.summary}); choose another"
            " folder, or delete that one first"
        )


def _store_corpus(
    corpus: Source | Iterable[Document], work: Workplace, chunk: int | None, progress: bool | None
) -> CorpusRecord:
    if (done := work.done("corpus")) is not None:
        return CorpusRecord(**done)
    shutil.rmtree((work.folder / TEXT_FILE).parent, ignore_errors=True)
    stored = isinstance(corpus, str | Path)
    passages = read_corpus(corpus) if stored else check_passages(corpus)
    hashes = array("Q")
    with progress_bar("reading", None, progress) as advance:

        def counted() -> Iterable[Document]:
            for passage in split_passages(passages, chunk):
                hashes.append(id_hash(passage.id))
                advance(1)
                yield passage

        rows = write_passages(counted(), work.folder)
    entries = np.empty(rows, dtype=ID_ENTRY)
    entries["hash"], entries["row"] = hashes, np.arange(rows)
    entries.sort(order=["hash", "row"])
    source = corpus_name(corpus) if stored else "a list of passages"
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


def _fitted(encoder: Encoder, work: Workplace) -> Encoder:
    if not isinstance(encoder, HashingEncoder):
        return encoder
    path = work.folder / ENCODER_FILE
    if not work.done("fit"):
        fitted = encoder.fit(passage.contents for passage in PassageStore(work.folder))
        path.parent.mkdir(exist_ok=True)
        np.save(path, fitted.document_frequency)
        work.finish("fit")
    return HashingEncoder(encoder.dimension, np.load(path))


def _encode(encoder: Encoder, work: Workplace, progress: bool | None) -> int:
    """Fill the file of vectors; returns how many passages were longer than the encoder reads."""
    passages = PassageStore(work.folder)
    done, truncated = work.done("encoded") or (0, 0)
    vectors = _vectors(work.folder / VECTORS_FILE, (len(passages), encoder.dimension), done)
    with progress_bar("encoding", len(passages), progress, done) as advance:
        for start in range(done, len(passages), _BATCH):
            batch = [passages[row] for row in range(start, min(start + _BATCH, len(passages)))]
            texts = [passage.contents for passage in batch]
            encoded = encoder.encode_passages(texts)
            _check_vectors(encoded, batch, encoder)
            end = start + len(batch)
            vectors[start:end] = encoded
            if isinstance(encoder, SentenceTransformerEncoder):
                truncated += encoder.count_truncated(texts)
            if end % _SHARD == 0 or end == len(passages):
                vectors.flush()
                work.finish("encoded", (end, truncated))
            advance(len(batch))
    if truncated:
        note(f"{truncated:,} passages are longer than {encoder.name} reads: --chunk", progress)
    return truncated


def _vectors(path: Path, shape: tuple[int, int], done: int) -> Any:
    """The file of vectors, written in place; new if none is encoded yet."""
    if done:
        return open_memmap(path, "r+")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    needed, free = 4 * shape[0] * shape[1] + _SPARE_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(
            f"{path.parent} has {free / 1e9:.1f} GB left and the vectors need"
            f" {needed / 1e9:.1f} GB; make room, or choose another folder"
        )
    return open_memmap(path, "w+", np.float32, shape)


def _index_vectors(encoder: Encoder, factory: str, rows: int, work: Workplace) -> DenseRecord:
    """Build and tune what proposes candidates, unless every vector is compared."""
    if factory == flat.FACTORY:
        return DenseRecord(factory, flat.METRIC, rows)
    if (tuned := work.done("dense")) is None:
        vectors: Vectors = open_memmap(work.folder / VECTORS_FILE, "r")
        path = work.folder / DENSE_FILE
        build_approximate(vectors, factory, path)
        passages = PassageStore(work.folder)
        texts = [_as_query(passages[row]) for row in tuning_rows(rows).tolist()]
        queries = np.ascontiguousarray(encoder.encode_queries(texts), dtype=np.float32)
        tuned = asdict(tune(Approximate(path, rows), vectors, queries))
        work.finish("dense", tuned)
    return DenseRecord(factory, flat.METRIC, rows, **tuned)


def _as_query(passage: Document) -> str:
    """A title and the first words, where no real queries are known."""
    return f"{passage.title} {' '.join(passage.text.split()[:8])}".strip()


def _index_words(bm25: bool, work: Workplace) -> None:
    if not bm25 or work.done("bm25"):
        return
    shutil.rmtree(work.folder / BM25_FOLDER, ignore_errors=True)
    texts = (passage.contents for passage in PassageStore(work.folder))
    Bm25.build(texts, work.folder / BM25_FOLDER)
    work.finish("bm25")


def _check_vectors(vectors: Vectors, batch: list[Document], encoder: Encoder) -> None:
    if vectors.shape != (len(batch), encoder.dimension):
        raise EncoderError(
            f"encoder {encoder.name!r} gave vectors of shape {vectors.shape}:"
            f" expected {(len(batch), encoder.dimension)}"
        )
    # Written so that a length which is not a number counts as wrong.
    wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if wrong.any():
        passage = batch[int(wrong.argmax())]
        raise EncoderError(
            f"encoder {encoder.name!r} gave passage {passage.id!r} a vector that is not of length 1"
        )


def _manifest(
    corpus: CorpusRecord,
    encoder: Encoder,
    dense: DenseRecord,
    bm25: Bm25Record | None,
    files: tuple[FileRecord, ...] = (),
    truncated: int = 0,
) -> Manifest:
    return Manifest(
        corpus,
        EncoderRecord(encoder.name, encoder.dimension, encoder.fingerprint),
        dense,
        files,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"numpy": np.__version__},
        bm25=bm25,
        truncated=truncated,
    )
