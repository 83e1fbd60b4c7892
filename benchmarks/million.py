"""A million generated passages: built, tuned, opened and searched; beside HNSW and BM25.

    python benchmarks/million.py

Writes the corpus and the indexes to runs/million; a build that was stopped goes on, and what is
recorded is not built again. Each index is built in a process of its own, for its peak memory
(resident, file pages included) and seconds, and opened in another one. Queries are those of the
test questions' chains; recall@10 is against exact search by the same vectors.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from record import RESULTS, STOPPED, begun, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.tasks.fiction import World
from retrieval_index import PassageIndex, build_index
from retrieval_index.flat import search_blocks

PACKAGES = ("faiss-cpu", "bm25s", "numpy")
K = 10
REPETITIONS = 5


@dataclass(frozen=True)
class Options:
    """Build and search large indexes."""

    passages: int = 1_000_000
    indexes: tuple[str, ...] = ("IVF4096,SQ8", "HNSW32", "bm25")
    """Index types of faiss, and "bm25"."""
    queries: int = 1000
    seed: int = 0
    folder: Path = Path("runs/million")
    out: Path = RESULTS / "million.json"
    show: bool = False
    """Print the record at `out`, and measure nothing."""


def main(options: Options) -> None:
    if options.show:
        show(json.loads(options.out.read_text())["results"])
        return
    corpus = options.folder / f"passages-{options.passages}.jsonl"
    if not corpus.exists():
        write_corpus(corpus, options)
    stopped = options.folder / STOPPED
    record = begun(stopped)
    for kind in options.indexes:
        name = f"{kind} {options.passages}"
        if name in record["results"]:
            continue
        out = options.folder / f"{kind.replace(',', '-')}-{options.passages}"
        built = in_process(build, corpus, out, kind)
        record["results"][name] = built | in_process(measure, out, kind, options)
        write_record(stopped, record | {"seed": options.seed})
    write_record(options.out, record | {"seed": options.seed} | surroundings(PACKAGES))
    stopped.unlink()
    show(record["results"])


def write_corpus(path: Path, options: Options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        for passage in World(options.passages, seed=options.seed).passages:
            row = {"id": passage.id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(row) + "\n")
    temporary.replace(path)


def in_process(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def build(corpus: Path, out: Path, kind: str) -> dict[str, Any]:
    began = time.perf_counter()
    words = kind == "bm25"
    index = build_index(corpus, out, index="Flat" if words else kind, bm25=words, progress=True)
    dense = index.manifest.dense
    return {
        "passages": len(index),
        "build_seconds": time.perf_counter() - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": dense.parameters,
        "candidates": dense.candidates,
        "tuned_recall": dense.recall,
        "megabytes": sum(file.bytes for file in index.manifest.files) / 1e6,
    }


def measure(out: Path, kind: str, options: Options) -> dict[str, Any]:
    began = time.perf_counter()
    index = PassageIndex.open(out)
    opened = time.perf_counter() - began
    tasks = World(options.passages, seed=options.seed).tasks("test", count=options.queries)
    asked = [link["query"] for task in tasks for link in task.metadata["chain"]][: options.queries]
    mode = "bm25" if kind == "bm25" else "dense"
    rates: list[float] = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        found = index.search(asked, K, mode)
        rates.append(len(asked) / (time.perf_counter() - began))
    result = {"open_seconds": opened, "queries_per_second": float(np.median(rates))}
    if mode == "dense":
        vectors = np.ascontiguousarray(index.encoder.encode_queries(asked), dtype=np.float32)
        exact = search_blocks(vectors, index.vectors, K)
        rows = [[index.row(document.id) for document in documents] for documents in found]
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(rows, exact, strict=True))
        result["recall"] = hits / exact.size
    return result


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("index", "built, s", "peak, MB", "disk, MB", "open, s", "recall@10", "queries/s")
    for name, row in results.items():
        recall = f"{row['recall']:.3f}" if "recall" in row else ""
        table.add_row(
            f"{name} {row['parameters']}",
            f"{row['build_seconds']:.0f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['megabytes']:,.0f}",
            f"{row['open_seconds']:.3f}",
            recall,
            f"{row['queries_per_second']:,.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
