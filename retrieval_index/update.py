"""Passages added to an index and deleted from it, without encoding the others again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from retrieval_index.build_state import BuildState, Plan, building, finish_commit
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
from retrieval_index.encoders import Encoder, HashingEncoder, Prompts, make_encoder
from retrieval_index.errors import IndexFileError
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import (
    ENCODER_FILE,
    VECTORS_FILE,
    generations,
    live_generation,
    read_manifest,
)
from retrieval_index.preflight import check, estimate
from retrieval_index.stages import (
    encode,
    finish,
    index_vectors,
    index_words,
    make_manifest,
    store_passages,
    vectors_file,
)

_ROWS = 65_536
_EDITED = ", edited"
_KEPT_GENERATIONS = 2


def update_index(
    path: str | Path,
    add: Source | Iterable[Document] | None = None,
    delete: Iterable[str] = (),
    *,
    encoder: Encoder | None = None,
    restart: bool = False,
    progress: bool | None = None,
) -> PassageIndex:
    """Delete passages by id, add those of a corpus, and open the index that results.

    An id that is deleted and added is replaced. The result is a new generation with nothing
    deleted left in it: only what is added is encoded, by the encoder as it is (a hashing encoder
    keeps the word weights of the first corpus), while words and approximate indexes are built
    again. Readers keep the generation that they have open; the one before it stays on disk, older
    ones are removed. An update of a corpus that was killed goes on when called again. Raises
    IndexFileError where there is no index, KeyError for an unknown id, and what `build_index` does.
    """
    folder = Path(path)
    if live_generation(folder) is None:
        raise IndexFileError(f"{folder} holds no index; make one with scripts/build_index.py")
    deleted = sorted(set(delete))
    if isinstance(add, str | Path):
        check_corpus(add)
    with building(folder):
        change = _change(add, deleted)
        finished = finish_commit(folder)
        index = PassageIndex.open(folder, encoder=encoder or _model_of(folder))
        if finished is not None and all(finished.get(key) == change[key] for key in change):
            return index
        gone = {passage.id for passage in index.get(deleted)}
        work = BuildState(
            folder, {**change, "base_fingerprint": index.fingerprint}, restart=restart
        )
        try:
            _update(index, add, gone, work, progress)
        finally:
            if not isinstance(add, str | Path | None) or work.done("corpus") is None:
                work.discard()
    _remove_old(folder)
    return PassageIndex.open(folder, encoder=encoder)


def _model_of(folder: Path) -> Encoder | None:
    """The model that encoded the passages, in their precision, whatever is fast here; None for a
    hashing encoder, which lies in the folder."""
    generation = live_generation(folder)
    assert generation is not None
    record = read_manifest(generation).encoder
    if record.name == HashingEncoder.name:
        return None
    prompts = Prompts(record.query_prompt, record.passage_prompt)
    return make_encoder(record.name, record.precision, prompts)


def _change(add: Source | Iterable[Document] | None, deleted: list[str]) -> Plan:
    stored = isinstance(add, str | Path)
    return {
        "added": corpus_name(add) if stored else None,
        "added_sha256": corpus_fingerprint(add) if stored else uuid4().hex if add else None,
        "deleted_sha256": hashlib.sha256(json.dumps(deleted).encode()).hexdigest(),
    }


def _update(
    index: PassageIndex,
    add: Source | Iterable[Document] | None,
    gone: set[str],
    work: BuildState,
    progress: bool | None,
) -> None:
    manifest = index.manifest
    corpus, factory = manifest.corpus, manifest.dense.factory
    words = manifest.bm25.words if manifest.bm25 else None
    source = corpus.source.removesuffix(_EDITED) + _EDITED
    kept = (passage for passage in index.passages if passage.id not in gone)
    passages = chain(kept, split_passages(_passages(add), corpus.chunk))
    record = store_passages(check_passages(passages), source, corpus.chunk, work, progress)
    if (index.generation / ENCODER_FILE).exists() and not work.done("fit"):
        (work.folder / ENCODER_FILE).parent.mkdir(exist_ok=True)
        shutil.copy(index.generation / ENCODER_FILE, work.folder / ENCODER_FILE)
        work.finish("fit")
    if work.done("encoded") is None:
        needs = estimate(work.folder, index.encoder, factory, words is not None, sample=False)
        check(needs, work.target)
        _copy_vectors(index, gone, record.rows, work)
    truncated = encode(index.encoder, work, progress)
    cosine = manifest.encoder.cosine
    dense = index_vectors(index.encoder, factory, record.rows, work, progress)
    index_words(words, work, progress)
    finish(make_manifest(record, index.encoder, dense, words, truncated, cosine), work)


def _passages(add: Source | Iterable[Document] | None) -> Iterable[Document]:
    if add is None:
        return ()
    return read_corpus(add) if isinstance(add, str | Path) else add


def _copy_vectors(index: PassageIndex, gone: set[str], rows: int, work: BuildState) -> None:
    keep = np.ones(len(index), dtype=bool)
    keep[[index.row(passage_id) for passage_id in gone]] = False
    kept = np.flatnonzero(keep)
    if kept.size == 0:
        return
    target: Any = vectors_file(work.folder / VECTORS_FILE, (rows, index.encoder.dimension), 0)
    for start in range(0, len(kept), _ROWS):
        block = kept[start : start + _ROWS]
        target[start : start + len(block)] = index.vectors[block]
    target.flush()
    work.finish("encoded", (len(kept), index.manifest.truncated))


def _remove_old(folder: Path) -> None:
    for generation in generations(folder)[:-_KEPT_GENERATIONS]:
        shutil.rmtree(generation)
