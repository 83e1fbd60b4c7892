"""Dense, BM25 and hybrid search on real questions with known passages, one table.

    python benchmarks/retrieval_recall.py
    python benchmarks/retrieval_recall.py --show      # the record, without measuring

Each corpus is indexed with each encoder (in runs/recall; a run that was stopped goes on), and up to
`count` of its questions are searched in each mode. Recall@10 and nDCG@10 are by the supporting
passages; hit@10 is the share of questions of which an answer stands in one of the first ten.
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
        show(json.loads(options.out.read_text())["results"])
        return
    stopped = options.indexes / STOPPED
    record = begun(stopped)
    results: dict[str, dict[str, Any]] = record["results"]
    for name in options.sets:
        for encoder in options.encoders:
            if encoder not in results.setdefault(name, {}):
                results[name][encoder] = measured(name, encoder, options)
                record |= {"count": options.count, "seed": options.seed}
                write_record(stopped, record)
    write_record(options.out, record | surroundings(PACKAGES))
    stopped.unlink()
    show(results)


def measured(name: str, encoder: str, options: Options) -> dict[str, Any]:
    corpus, _ = SETS[name]
    folder = options.indexes / f"{Path(corpus).name.partition('.')[0]}-{encoder}"
    index = build_index(DATA / "corpora" / corpus, folder, encoder)
    queries = chosen(name, options.count, options.seed)
    found = {mode: run_queries(index, queries, K, mode) for mode in ("dense", "bm25", "hybrid")}
    modes = {mode: measure(queries, results, (K,)) for mode, results in found.items()}
    return {
        "passages": len(index),
        "questions": len(queries),
        "modes": modes,
        "usual": index.mode,
    }


def chosen(name: str, count: int, seed: int) -> list[Query]:
    """Up to `count` of a set's questions."""
    queries = read_queries(DATA / SETS[name][1])
    few = len(queries) <= count
    return queries if few else random.Random(seed).sample(queries, count)


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


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
