"""Queries per second of exact search by batch size: faiss's own setting against ours.

    OMP_NUM_THREADS=1 python benchmarks/blas_threshold.py

Random unit vectors; "scan" and "product" force the two ways that faiss has, so the crossover
can be read off.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import tyro
from numpy.typing import NDArray
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from retrieval_index.flat import set_blas_threshold


@dataclass
class Options:
    """Measure the effect of faiss's BLAS threshold."""

    rows: int = 50_000
    dimension: int = 384
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 256)
    seconds: float = 0.5
    """Time spent on each cell, at least one search."""
    seed: int = 0
    out: Path = RESULTS / "blas_threshold.json"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    rng = np.random.default_rng(options.seed)
    index = faiss.IndexFlatIP(options.dimension)
    index.add(_unit(rng, options.rows, options.dimension))
    queries = _unit(rng, max(options.batches), options.dimension)
    default = faiss.cvar.distance_compute_blas_threshold
    set_blas_threshold(faiss, options.dimension)
    ours = faiss.cvar.distance_compute_blas_threshold
    settings = {"faiss's own": default, "ours": ours, "scan": 2**31 - 1, "product": 1}
    rates: dict[str, dict[int, float]] = {}
    for name, threshold in settings.items():
        faiss.cvar.distance_compute_blas_threshold = threshold
        rates[name] = {
            batch: round(_rate(index, queries[:batch], options.seconds), 1)
            for batch in options.batches
        }
    record: dict[str, Any] = {
        "rows": options.rows,
        "dimension": options.dimension,
        "seed": options.seed,
        "threads": faiss.omp_get_max_threads(),
        **surroundings(["faiss-cpu", "numpy"]),
        "thresholds": settings,
        "queries_per_second": rates,
    }
    show(record)
    write_record(options.out, record)


def show(record: dict[str, Any]) -> None:
    table = Table(
        title=f"queries/s by batch size, {record['rows']:,} × {record['dimension']},"
        f" {record['threads']} threads"
    )
    rates: dict[str, dict[int, float]] = record["queries_per_second"]
    table.add_column("setting")
    for batch in next(iter(rates.values())):
        table.add_column(str(batch), justify="right")
    for name, row in rates.items():
        cells = (f"{rate:,.0f}" for rate in row.values())
        table.add_row(f"{name} ({record['thresholds'][name]:,})", *cells)
    Console().print(table, record["machine"], record["versions"])


def _unit(rng: np.random.Generator, rows: int, dimension: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rate(index: Any, queries: NDArray[np.float32], seconds: float) -> float:
    index.search(queries, 10)
    began, searches = time.perf_counter(), 0
    while searches == 0 or time.perf_counter() - began < seconds:
        index.search(queries, 10)
        searches += 1
    return searches * len(queries) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
