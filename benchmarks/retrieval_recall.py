"""Recall of the dense indexes beside BM25, on real questions with known passages.

    python benchmarks/retrieval_recall.py

Recall@k is the share of questions whose supporting passage is among the first k. A question here
was written for one passage, so it is also the hit rate.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from retrieval_index import build_index, read_corpus
from retrieval_index.documents import Document

DATA = Path(__file__).parents[2] / "shared" / "data"
KS = (1, 5, 10)
PACKAGES = ("faiss-cpu", "sentence-transformers", "torch", "bm25s", "numpy")


@dataclass
class Options:
    """Measure recall@1/5/10 of MiniLM and hashing indexes, and of BM25."""

    corpus: Path = DATA / "corpora/squad_dev.jsonl.gz"
    questions: Path = DATA / "qa/squad_dev.jsonl.gz"
    count: int = 1000
    seed: int = 0
    encoders: tuple[str, ...] = ("minilm", "hashing")
    out: Path = RESULTS / "retrieval_recall.json"


@dataclass
class Result:
    engine: str
    recall: dict[int, float]
    build_seconds: float
    search_seconds: float


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    questions = sample_questions(options.questions, options.count, options.seed)
    results = [measure_index(name, options.corpus, questions) for name in options.encoders]
    results.append(measure_bm25(options.corpus, questions))
    record: dict[str, Any] = {
        "corpus": options.corpus.name,
        "questions": len(questions),
        "seed": options.seed,
        **surroundings(PACKAGES),
        "results": [asdict(result) for result in results],
    }
    show(results, record)
    write_record(options.out, record)


def sample_questions(path: Path, count: int, seed: int) -> list[tuple[str, frozenset[str]]]:
    """Questions and the ids of their supporting passages."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    chosen = random.Random(seed).sample(rows, min(count, len(rows)))
    return [(row["question"], frozenset(row["supporting"])) for row in chosen]


def measure_index(
    encoder: str, corpus: Path, questions: Sequence[tuple[str, frozenset[str]]]
) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        index = build_index(corpus, Path(folder) / "index", encoder)
        built = time.perf_counter()
        found = index.search([question for question, _ in questions], max(KS))
        searched = time.perf_counter()
    return Result(encoder, recall(found, questions), built - began, searched - built)


def measure_bm25(corpus: Path, questions: Sequence[tuple[str, frozenset[str]]]) -> Result:
    """Plain BM25: lower case, no stop words removed, no stemming, k1 0.9, b 0.4."""
    import bm25s

    began = time.perf_counter()
    passages = list(read_corpus(corpus))
    texts = [passage.contents for passage in passages]
    engine = bm25s.BM25(k1=0.9, b=0.4)
    engine.index(bm25s.tokenize(texts, stopwords=[], show_progress=False), show_progress=False)
    built = time.perf_counter()
    queries = bm25s.tokenize([q for q, _ in questions], stopwords=[], show_progress=False)
    rows, _ = engine.retrieve(queries, k=max(KS), show_progress=False)
    searched = time.perf_counter()
    found = [[passages[row] for row in query_rows] for query_rows in rows]
    return Result("bm25s", recall(found, questions), built - began, searched - built)


def recall(
    found: Sequence[Sequence[Document]], questions: Sequence[tuple[str, frozenset[str]]]
) -> dict[int, float]:
    def share(k: int) -> float:
        hits = (
            len(gold & {document.id for document in documents[:k]}) / len(gold)
            for documents, (_, gold) in zip(found, questions, strict=True)
        )
        return sum(hits) / len(questions)

    return {k: round(share(k), 4) for k in KS}


def show(results: Sequence[Result], record: dict[str, Any]) -> None:
    table = Table(title=f"{record['questions']} questions over {record['corpus']}")
    for column in ("engine", *(f"recall@{k}" for k in KS), "build s", "search s"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for result in results:
        seconds = (f"{result.build_seconds:.1f}", f"{result.search_seconds:.2f}")
        table.add_row(
            result.engine, *(f"{value:.3f}" for value in result.recall.values()), *seconds
        )
    Console().print(table, record["machine"], record["versions"])


if __name__ == "__main__":
    main()
