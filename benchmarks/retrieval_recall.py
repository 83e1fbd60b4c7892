"""Dense, BM25 and hybrid search on real questions with known passages, one table.

    python benchmarks/retrieval_recall.py
    python benchmarks/retrieval_recall.py --show      # the record, without measuring

Each corpus is indexed with each encoder (in runs/recall; a run that was stopped goes on), and up to
`count` of its questions are searched in each mode. Recall@10 and nDCG@10 are by the supporting
passages; hit@10 is the share of questions of which an answer stands in one of the first ten. A
second part compares the ways in which BM25 cuts texts into words.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from record import RESULTS, STOPPED, begun, surroundings, write_record
from rich.console import Console
from rich.table import Table

from retrieval_index import build_index
from retrieval_index.evaluate import Query, measure, read_queries, run_queries
from retrieval_index.words import WORDS, Words

DATA = Path(__file__).parents[2] / "shared" / "data"
SETS = {
    "SQuAD dev": ("squad_dev.jsonl.gz", "qa/squad_dev.jsonl.gz"),
    "HotpotQA": ("hotpotqa_100.jsonl.gz", "qa/hotpotqa_100.jsonl"),
    "2Wiki": ("2wikimultihopqa.jsonl.gz", "qa/2wikimultihopqa_101.jsonl"),
    "PopQA": ("popqa_1000.jsonl.gz", "qa/popqa_1000.jsonl"),
    "SciFact": ("scifact.jsonl.gz", "retrieval/scifact_test.jsonl"),
    "Cranfield": ("cranfield.jsonl.gz", "retrieval/cranfield.jsonl"),
}
PACKAGES = ("faiss-cpu", "sentence-transformers", "torch", "bm25s", "ir-measures", "numpy")
K = 10
SHOWN = ("recall@10", "nDCG@10", "hit@10")


@dataclass(frozen=True)
class Options:
    """Measure search on the sets of shared/data."""

    encoders: tuple[Literal["hashing", "minilm"], ...] = ("hashing", "minilm")
    sets: tuple[str, ...] = tuple(SETS)
    count: int = 1000
    seed: int = 0
    indexes: Path = Path("runs/recall")
    out: Path = RESULTS / "retrieval_recall.json"
    show: bool = False
    """Print the record at `out`, and measure nothing."""


def main(options: Options) -> None:
    if options.show:
        record = json.loads(options.out.read_text())
        show(record["results"])
        show_words(record.get("words", {}))
        return
    stopped = options.indexes / STOPPED
    record = begun(stopped)
    results: dict[str, dict[str, Any]] = record["results"]
    words: dict[str, dict[str, dict[str, float]]] = record.setdefault("words", {})
    for name in options.sets:
        for encoder in options.encoders:
            if encoder not in results.setdefault(name, {}):
                results[name][encoder] = measured(name, encoder, options)
                record |= {"count": options.count, "seed": options.seed}
                write_record(stopped, record)
        if name not in words:
            words[name] = {kind: by_words(name, kind, options) for kind in WORDS}
            write_record(stopped, record)
    write_record(options.out, record | surroundings(PACKAGES))
    stopped.unlink()
    show(results)
    show_words(words)


def measured(name: str, encoder: str, options: Options) -> dict[str, Any]:
    corpus, _ = SETS[name]
    folder = options.indexes / f"{Path(corpus).name.partition('.')[0]}-{encoder}"
    index = build_index(DATA / "corpora" / corpus, folder, encoder)
    queries = chosen(name, options)
    found = {mode: run_queries(index, queries, K, mode) for mode in ("dense", "bm25", "hybrid")}
    modes = {mode: measure(queries, results, (K,)) for mode, results in found.items()}
    return {
        "passages": len(index),
        "questions": len(queries),
        "modes": modes,
        "usual": index.mode,
    }


def by_words(name: str, words: Words, options: Options) -> dict[str, float]:
    """BM25 with texts cut into words in this way."""
    folder = options.indexes / f"{Path(SETS[name][0]).name.partition('.')[0]}-{words}"
    index = build_index(DATA / "corpora" / SETS[name][0], folder, words=words)
    queries = chosen(name, options)
    return measure(queries, run_queries(index, queries, K, "bm25"), (K,))


def chosen(name: str, options: Options) -> list[Query]:
    queries = read_queries(DATA / SETS[name][1])
    few = len(queries) <= options.count
    return queries if few else random.Random(options.seed).sample(queries, options.count)


def show(results: dict[str, dict[str, Any]]) -> None:
    for figure in SHOWN:
        table = Table(title=figure, title_justify="left")
        columns = [("bm25", "BM25")]
        for encoder in next(iter(results.values())):
            columns += [(f"{encoder} dense", encoder), (f"{encoder} hybrid", "+ BM25")]
        for column in ("set", "passages", "queries", *(title for _, title in columns)):
            table.add_column(column, justify="left" if column == "set" else "right")
        for name, encoders in results.items():
            one = next(iter(encoders.values()))
            cells: dict[str, float] = {"bm25": one["modes"]["bm25"].get(figure)}
            for encoder, row in encoders.items():
                cells[f"{encoder} dense"] = row["modes"]["dense"].get(figure)
                cells[f"{encoder} hybrid"] = row["modes"]["hybrid"].get(figure)
            if cells["bm25"] is None:
                continue
            values = [f"{cells[key]:.3f}" if key in cells else "" for key, _ in columns]
            table.add_row(name, f"{one['passages']:,}", f"{one['questions']:,}", *values)
        Console().print(table)
    for encoder, row in next(iter(results.values())).items():
        if "usual" in row:
            print(f"An index of {encoder} searches by {row['usual']} unless told otherwise.")


def show_words(results: dict[str, dict[str, dict[str, float]]]) -> None:
    figure = SHOWN[0]
    table = Table(title=f"{figure} of BM25 by kind of words", title_justify="left")
    for column in ("set", *WORDS):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, kinds in results.items():
        if figure in kinds[WORDS[0]]:
            table.add_row(name, *(f"{kinds[kind][figure]:.4f}" for kind in WORDS))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
