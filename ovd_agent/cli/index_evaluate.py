"""How well an index finds known passages.

ovd index evaluate --index my_index --queries questions.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from retrieval_index import PassageIndex
from retrieval_index.evaluate import (
    KS,
    latency,
    measure,
    read_qrels,
    read_queries,
    run_queries,
    write_run,
)
from retrieval_index.files import write_atomically
from retrieval_index.index import MODES, Mode


@dataclass
class Options:
    """Recall, nDCG, reciprocal rank, answer hits and speed of an index."""

    index: Path
    """An index folder."""
    queries: Path
    """JSON Lines: "id", "question", and "supporting" (ids), "relevant" (id to grade) or
    "answers"; or BEIR's queries.jsonl, with `--qrels`."""
    qrels: Path | None = None
    """A file of judgements of TREC or BEIR, in place of those in `queries`."""
    modes: tuple[Mode, ...] = ()
    """"dense", "bm25", "hybrid"; all that the index has by default."""
    k: tuple[int, ...] = KS
    run: Path | None = None
    """Where to write a TREC run file for each mode: run.trec becomes run.dense.trec and so on."""
    out: Path | None = None
    """Where to write the figures as JSON."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    results = evaluate(options)
    print_results(results, f"{options.queries} over {options.index}")
    if options.out:
        write_atomically(options.out, json.dumps(results, indent=2) + "\n")
    return 0


def print_results(results: dict[str, dict[str, float]], title: str) -> None:
    """Figures one below the other, so that they fit a narrow terminal."""
    table = Table("", title=title, title_justify="left")
    for mode in results:
        table.add_column(mode, justify="right")
    for figure in next(iter(results.values())):
        values = [figures[figure] for figures in results.values()]
        share = max(values) <= 1
        table.add_row(figure, *(f"{value:.3f}" if share else f"{value:,.1f}" for value in values))
    Console().print(table)


def evaluate(options: Options) -> dict[str, dict[str, float]]:
    index = PassageIndex.open(options.index)
    queries = read_queries(options.queries, read_qrels(options.qrels) if options.qrels else None)
    console = Console()
    console.print(f"Unless told otherwise it searches by {index.mode}: {index.mode_reason}.")
    modes = options.modes or (MODES if index.manifest.bm25 else ("dense",))
    results: dict[str, dict[str, float]] = {}
    for mode in modes:
        found = run_queries(index, queries, max(*options.k, 10), mode)
        speed = latency(index, queries, max(options.k), mode)
        results[mode] = measure(queries, found, options.k) | speed
        if options.run:
            write_run(options.run.with_suffix(f".{mode}{options.run.suffix}"), found, tag=mode)
    return results
