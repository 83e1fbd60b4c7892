"""Corpus to index folder: store the passages, encode them, index the vectors, commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.lib.format import open_memmap

from retrieval_index import flat
from retrieval_index.corpus import (
    TEXT_FILE,
    PassageStore,
    check_corpus,
    check_passages,
    read_corpus,
    write_passages,
)
from retrieval_index.documents import Document
from retrieval_index.encoders import Encoder, HashingEncoder, Vectors, make_encoder
from retrieval_index.errors import EncoderError, IndexExistsError
from retrieval_index.index import ID_ENTRY, PassageIndex, id_hash
from retrieval_index.manifest import (
    ENCODER_FILE,
    IDS_FILE,
    VECTORS_FILE,
    CorpusRecord,
    DenseRecord,
    EncoderRecord,
    Manifest,
    commit,
    describe_files,
    file_sha256,
    live_generation,
    read_manifest,
    write_manifest,
)
from retrieval_index.progress import progress_bar

_BATCH = 128
"""Passages encoded between two writes: memory does not grow with the corpus, and the progress bar
moves every few seconds even where a model manages ten passages a second."""
_BUILDING = "building-"


def build_index(
    corpus: str | Path | Iterable[Document],
    out: str | Path,
    encoder: str | Encoder = "hashing",
    *,
    progress: bool | None = None,
) -> PassageIndex:
    """Index a corpus file, or passages, into the folder `out`, and open the result.

    `encoder` is a name for `make_encoder` or an encoder; a hashing encoder is fitted to the
    corpus. `progress=None` shows a bar when stderr is a terminal. Until all is done, work goes to
    a temporary folder inside `out`. An `out` that already holds this very index is opened as it
    is; one that holds anything else raises IndexExistsError. Raises CorpusError and EncoderError.
    """
    target = Path(out)
    _check_target(target)
    if isinstance(corpus, str | Path):
        check_corpus(corpus)  # before a model is loaded
    chosen = make_encoder(encoder) if isinstance(encoder, str) else encoder
    prepared = target / f"{_BUILDING}{uuid4().hex}"
    prepared.mkdir(parents=True)
    try:
        record = _store_corpus(corpus, prepared, progress)
        chosen = _fitted(chosen, prepared)
        manifest = _manifest(record, chosen)
        if (existing := live_generation(target)) is not None:
            _check_same(manifest, read_manifest(existing), target)
            return PassageIndex.open(target, encoder=chosen)
        _encode(chosen, prepared, progress)
        write_manifest(_manifest(record, chosen, prepared), prepared)
        commit(prepared, target)
        return PassageIndex.open(target, encoder=chosen)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
        with suppress(OSError):  # leave no empty folder behind a failure
            target.rmdir()


def _check_target(target: Path) -> None:
    """Refuse early what could never be written."""
    if target.is_file():
        raise IndexExistsError(f"{target} is a file; expected a folder for the index")
    if not target.is_dir() or live_generation(target) is not None:
        return
    strange = [p.name for p in target.iterdir() if not p.name.startswith(("gen-", _BUILDING))]
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
    corpus: str | Path | Iterable[Document], prepared: Path, progress: bool | None
) -> CorpusRecord:
    from_file = isinstance(corpus, str | Path)
    passages = read_corpus(corpus) if from_file else check_passages(corpus)
    hashes: list[int] = []
    with progress_bar("reading", None, progress) as advance:

        def counted() -> Iterable[Document]:
            for passage in passages:
                hashes.append(id_hash(passage.id))
                advance(1)
                yield passage

        rows = write_passages(counted(), prepared)
    entries = np.empty(rows, dtype=ID_ENTRY)
    entries["hash"], entries["row"] = hashes, np.arange(rows)
    entries.sort(order=["hash", "row"])
    np.save(prepared / IDS_FILE, entries)
    source = Path(corpus).name if from_file else "a list of passages"
    return CorpusRecord(source, rows, file_sha256(prepared / TEXT_FILE))


def _fitted(encoder: Encoder, prepared: Path) -> Encoder:
    if not isinstance(encoder, HashingEncoder):
        return encoder
    fitted = encoder.fit(passage.contents for passage in PassageStore(prepared))
    path = prepared / ENCODER_FILE
    path.parent.mkdir()
    np.save(path, fitted.document_frequency)
    return fitted


def _encode(encoder: Encoder, prepared: Path, progress: bool | None) -> None:
    passages = PassageStore(prepared)
    path = prepared / VECTORS_FILE
    path.parent.mkdir()
    vectors = open_memmap(path, "w+", np.float32, (len(passages), encoder.dimension))
    with progress_bar("encoding", len(passages), progress) as advance:
        for start in range(0, len(passages), _BATCH):
            batch = [passages[row] for row in range(start, min(start + _BATCH, len(passages)))]
            encoded = encoder.encode_passages([passage.contents for passage in batch])
            _check_vectors(encoded, batch, encoder)
            vectors[start : start + len(batch)] = encoded
            advance(len(batch))
    vectors.flush()


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


def _manifest(corpus: CorpusRecord, encoder: Encoder, prepared: Path | None = None) -> Manifest:
    """The manifest; without `prepared` only its identity counts, and no file is listed."""
    return Manifest(
        corpus,
        EncoderRecord(encoder.name, encoder.dimension, encoder.fingerprint),
        DenseRecord(flat.FACTORY, flat.METRIC, corpus.rows),
        describe_files(prepared) if prepared else (),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"numpy": np.__version__},
    )
