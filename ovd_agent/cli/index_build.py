"""Build a passage index: `ovd index build --corpus passages.jsonl --out my_index`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from retrieval_index import PassageIndex, build_index
from retrieval_index.encoders import DEFAULT_ENCODER, Precision
from retrieval_index.flat import FACTORY
from retrieval_index.manifest import CURRENT, Bm25Record, DenseRecord, EncoderRecord
from retrieval_index.qdrant import connect, export
from retrieval_index.words import Words


@dataclass
class Options:
    """Index a corpus of passages for search."""

    corpus: str
    """A file of passages ("id", "title", "text") in .jsonl, .jsonl.gz, .parquet or .arrow, a folder
    of such files, or a dataset on the Hub: hub:NAME[/CONFIG][:SPLIT]."""
    out: Path
    """The index folder to make."""
    encoder: str = DEFAULT_ENCODER
    """"hashing" (no model), "minilm", a sentence-transformers model on the Hub, or its folder."""
    index: str = "auto"
    """"auto" (by the number of passages), "Flat" (exact), or a factory string of faiss, such as
    "IVF1024,SQ8" or "HNSW32", which is tuned to a recall of 0.95."""
    bm25: bool = True
    """Also build a BM25 index, for BM25 and hybrid search."""
    words: Words = "folded"
    """Words of BM25: "folded" (accents do not matter, characters of Chinese, Japanese and Thai are
    words), "segmented" (accents matter), or "plain" (as in version 0.1)."""
    chunk: int | None = None
    """Split passages of more than this many words, between sentences."""
    precision: Precision | None = None
    """Numeric type of the model; by default bfloat16 where the processor supports it."""
    query_prompt: str | None = None
    """Text that the model needs before a query; by default its own, or that of known models."""
    passage_prompt: str | None = None
    """Text that the model needs before a passage."""
    to: str | None = None
    """Also copy it to Qdrant: qdrant://HOST[:PORT]/COLLECTION."""
    ray: str | None = None
    """Encode on a Ray cluster: its address, "auto" for the one of this machine, or "local"."""
    restart: bool = False
    """Discard an unfinished build instead of resuming it."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    began = time.perf_counter()
    was_there = (options.out / CURRENT).exists()
    index = build_index(
        options.corpus,
        options.out,
        options.encoder,
        index=options.index,
        bm25=options.bm25,
        words=options.words,
        chunk=options.chunk,
        precision=options.precision,
        query_prompt=options.query_prompt,
        passage_prompt=options.passage_prompt,
        restart=options.restart,
        ray=options.ray,
    )
    if options.to:
        client, collection = connect(options.to)
        export(index, client, collection)
    seconds = time.perf_counter() - began
    took = f"{seconds:.1f} s, {len(index) / seconds:,.0f} passages/s"
    Console().print(summary(index, options.out, "none: it was there" if was_there else took))
    return 0


def summary(index: PassageIndex, out: Path, took: str) -> Table:
    manifest = index.manifest
    size = sum(file.bytes for file in manifest.files)
    table = Table(title=f"Index {out}", show_header=False, title_justify="left")
    for name, value in (
        ("corpus", f"{manifest.corpus.source}, {manifest.corpus.rows:,} passages"),
        ("truncated", f"{manifest.truncated:,} passages are longer than the encoder reads"),
        ("encoder", describe_encoder(manifest.encoder)),
        ("index", describe(manifest.dense)),
        ("words", describe_words(manifest.bm25)),
        ("searches by", f"{index.mode}: {index.mode_reason}"),
        ("size", f"{size / 1e6:,.1f} MB"),
        ("built", manifest.created),
        ("time", took),
        ("fingerprint", index.fingerprint[:16]),
    ):
        table.add_row(name, value)
    return table


def describe_words(bm25: Bm25Record | None) -> str:
    return f"BM25, {bm25.words}, {bm25.stemmer} stems" if bm25 else "not indexed"


def describe_encoder(encoder: EncoderRecord) -> str:
    line = f"{encoder.name}, {encoder.dimension} dimensions, {encoder.precision}"
    exact = encoder.precision == "float32"
    return line if exact else f"{line}: cosine to float32 {encoder.cosine:.4f} at least"


def describe(dense: DenseRecord) -> str:
    if dense.factory == FACTORY:
        return f"{FACTORY}, exact"
    measured = f"recall@10 {dense.recall:.3f} against exact, {dense.queries} sampled queries"
    found_by = " ".join(filter(None, [dense.parameters, f"{dense.candidates} candidates each"]))
    return f"{dense.factory}, {found_by}: {measured}"
