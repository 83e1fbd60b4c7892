"""Corpus to index folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from retrieval_index import flat
from retrieval_index.approximate import check_factory, choose_factory
from retrieval_index.bm25 import check_installed as check_bm25_installed
from retrieval_index.build_state import FOLDER, BuildState, Plan, building, finish_commit
from retrieval_index.cluster import check_installed as check_ray_installed
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
    DEFAULT_ENCODER,
    Encoder,
    Precision,
    Prompts,
    make_encoder,
    precision_of,
)
from retrieval_index.errors import CorpusError, IndexExistsError, RetrievalError
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import (
    CURRENT,
    DenseRecord,
    Manifest,
    live_generation,
    read_manifest,
)
from retrieval_index.preflight import check, estimate
from retrieval_index.progress import note
from retrieval_index.stages import (
    encode,
    finish,
    fit,
    index_vectors,
    index_words,
    make_manifest,
    measure_precision,
    store_passages,
)
from retrieval_index.words import Words


def build_index(
    corpus: Source | Iterable[Document],
    out: str | Path,
    encoder: str | Encoder = DEFAULT_ENCODER,
    *,
    index: str = "auto",
    bm25: bool = True,
    words: Words = "folded",
    chunk: int | None = None,
    precision: Precision | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    restart: bool = False,
    ray: str | None = None,
    progress: bool | None = None,
) -> PassageIndex:
    """Index a corpus (see `read_corpus`), or passages, into the folder `out`, and open the result.

    `encoder` is a name for `make_encoder` or an encoder; a hashing encoder is fitted to the
    corpus. `index` is "auto" (by the number of passages: see `choose_factory`), "Flat", which is
    exact, or a factory string of faiss, which is tuned to a recall of 0.95. `bm25` adds lexical
    search, and so hybrid search; `words` is how it cuts texts into words (see `Words`). `chunk`
    splits passages of more than that many words. A model named by `encoder` computes in
    `precision`, by default bfloat16 where that is fast, and is given `query_prompt` and
    `passage_prompt` before texts, by default its own or those that its card asks for. `ray` is the
    address of a cluster to encode on ("auto", "local"). `progress=None` shows a bar when stderr is
    a terminal.

    A build from a corpus that was stopped, or killed, resumes when it is called again with the same
    corpus, encoder and options; `restart` discards it. An `out` that already holds this very index
    is opened as it is; one that holds anything else raises IndexExistsError. Raises CorpusError,
    EncoderError, MissingPackageError, and OSError or MemoryError where the machine is too small.
    """
    target = Path(out)
    _check_target(target)
    if stored := isinstance(corpus, str | Path):
        check_corpus(corpus)  # before a model is loaded
    if bm25:
        check_bm25_installed()
    if ray:
        check_ray_installed()
    if chunk is not None and chunk < 1:
        raise CorpusError(f"chunk={chunk}: expected at least 1 word")
    prompts = Prompts(query_prompt, passage_prompt)
    chosen = make_encoder(encoder, precision, prompts) if isinstance(encoder, str) else encoder
    with building(target):
        finish_commit(target)
        plan = _plan(corpus, chosen, index, words if bm25 else None, chunk)
        work = BuildState(target, plan, restart=restart)
        try:
            return _build(corpus, work, chosen, plan, ray, progress)
        except RetrievalError:
            if work.done("encoded") is None:  # a mistake, before there was anything to lose
                work.discard()
            raise
        finally:
            # What was read from a program cannot be checked to be the same the next time, and a
            # corpus with a mistake in it will be another one.
            if not stored or work.done("corpus") is None:
                work.discard()


def _build(
    corpus: Source | Iterable[Document],
    work: BuildState,
    encoder: Encoder,
    plan: Plan,
    ray: str | None,
    progress: bool | None,
) -> PassageIndex:
    passages = read_corpus(corpus) if isinstance(corpus, str | Path) else check_passages(corpus)
    passages = split_passages(passages, plan["chunk"])
    record = store_passages(passages, plan["corpus"], plan["chunk"], work, progress)
    factory, reason = choose_factory(record.rows)
    if plan["index"] != "auto":
        factory, reason = plan["index"], "as asked for"
    check_factory(factory, encoder.dimension, record.rows)
    encoder = fit(encoder, work)
    existing = live_generation(work.target)
    if existing is None:
        if work.done("encoded") is None:
            needs = estimate(
                work.folder, encoder, factory, plan["words"] is not None, sample=ray is None
            )
            note(f"index: {factory} ({reason}); {needs}", progress)
            check(needs, work.target)
        truncated = encode(encoder, work, progress, ray)
        cosine = measure_precision(encoder, work)
        dense = index_vectors(encoder, factory, record.rows, work, progress)
        index_words(plan["words"], work, progress)
        finish(make_manifest(record, encoder, dense, plan["words"], truncated, cosine), work)
    else:
        dense = DenseRecord(factory, flat.METRIC, record.rows)
        wanted = make_manifest(record, encoder, dense, plan["words"])
        work.discard()
        _check_same(wanted, read_manifest(existing), work.target)
    return PassageIndex.open(work.target, encoder=encoder)


def _plan(
    corpus: Source | Iterable[Document],
    encoder: Encoder,
    index: str,
    words: Words | None,
    chunk: int | None,
) -> Plan:
    stored = isinstance(corpus, str | Path)
    return {
        "corpus": corpus_name(corpus) if stored else "a list of passages",
        # Of a list that is gone nobody knows whether the next one is the same.
        "corpus_sha256": corpus_fingerprint(corpus) if stored else uuid4().hex,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "precision": precision_of(encoder),
        "index": index,
        "words": words,
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
