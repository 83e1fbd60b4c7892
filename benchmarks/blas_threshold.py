"""Queries per second of exact search by batch size: faiss's own setting against ours.

    python benchmarks/blas_threshold.py

Random unit vectors; "scan" and "product" force the two ways that faiss has, so the crossover
can be read off. "numpy's product" is the matrix product alone, nothing chosen from it: what the
machine can do. Our setting must find the same passages as faiss's own; medians of `repetitions`
in turn.
"""

from __future__ import annotations

import statistics
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

PRODUCT = "numpy's product"
BLOCK = 16_384


@dataclass
class Options:
    """Measure the effect of faiss's BLAS threshold."""

    rows: int = 100_000
    dimension: int = 384
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 64, 256)
    repetitions: int = 11
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
    base = index.reconstruct_n(0, options.rows)
    rates: dict[str, dict[int, float]] = {name: {} for name in [*settings, PRODUCT]}
    for batch in options.batches:
        time.sleep(0.5)
        asked = queries[:batch]
        found: dict[str, NDArray[np.int64]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in rates}
        for _ in range(options.repetitions):
            for name, threshold in settings.items():
                faiss.cvar.distance_compute_blas_threshold = threshold
                began = time.perf_counter()
                found[name] = index.search(asked, 10)[1]
                seconds[name].append(time.perf_counter() - began)
        for _ in range(options.repetitions):  # apart: numpy's threads, waiting, disturb faiss's
            began = time.perf_counter()
            product(asked, base)
            seconds[PRODUCT].append(time.perf_counter() - began)
        assert np.array_equal(found["ours"], found["faiss's own"])
        for name, times in seconds.items():
            rates[name][batch] = round(batch / statistics.median(times), 1)
    record: dict[str, Any] = {
        "rows": options.rows,
        "dimension": options.dimension,
        "seed": options.seed,
        "threads": faiss.omp_get_max_threads(),
        **surroundings(["faiss-cpu", "numpy"]),
        "repetitions": options.repetitions,
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
        threshold = record["thresholds"].get(name)
        table.add_row(f"{name} ({threshold:,})" if threshold else name, *cells)
    Console().print(table, record["machine"], record["versions"])


def _unit(rng: np.random.Generator, rows: int, dimension: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((rows, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def product(queries: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    """In blocks, as nobody would hold all the scores."""
    for start in range(0, len(base), BLOCK):
        _ = queries @ base[start : start + BLOCK].T


if __name__ == "__main__":
    main()
