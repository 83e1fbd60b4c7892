"""BM25 by the ways in which it cuts texts into words, on real questions with known passages.

    python benchmarks/words.py
    python benchmarks/words.py --show      # the record, without measuring

The sets and questions are those of benchmarks/retrieval_recall.py. They are English with a few
foreign names; tests/retrieval/test_words.py has other scripts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from record import RESULTS, surroundings, write_record
from retrieval_recall import DATA, SETS, K, chosen
from rich.console import Console
from rich.table import Table

from retrieval_index import build_index
from retrieval_index.evaluate import measure, run_queries
from retrieval_index.words import WORDS, Words

PACKAGES = ("bm25s", "ir-measures", "numpy")


@dataclass(frozen=True)
class Options:
    """Measure every kind of words on the sets of shared/data."""

    count: int = 1000
    seed: int = 0
    indexes: Path = Path("runs/words")
    out: Path = RESULTS / "words.json"
    show: bool = False
    """Print the record at `out`, and measure nothing."""


def main(options: Options) -> None:
    if options.show:
        show(json.loads(options.out.read_text())["results"])
        return
    results = {name: {kind: measured(name, kind, options) for kind in WORDS} for name in SETS}
    about = {"count": options.count, "seed": options.seed}
    write_record(options.out, {"results": results, **about, **surroundings(PACKAGES)})
    show(results)


def measured(name: str, words: Words, options: Options) -> dict[str, float]:
    corpus, _ = SETS[name]
    folder = options.indexes / f"{Path(corpus).name.partition('.')[0]}-{words}"
    index = build_index(DATA / "corpora" / corpus, folder, words=words)
    queries = chosen(name, options.count, options.seed)
    return measure(queries, run_queries(index, queries, K, "bm25"), (K,))


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for figure in ("recall@10", "nDCG@10"):
        table = Table(title=f"{figure} of BM25 by kind of words", title_justify="left")
        for column in ("set", *WORDS):
            table.add_column(column, justify="left" if column == "set" else "right")
        for name, kinds in results.items():
            table.add_row(name, *(f"{kinds[kind][figure]:.4f}" for kind in WORDS))
        Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
