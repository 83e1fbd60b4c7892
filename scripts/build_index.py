"""Build a passage index.

python scripts/build_index.py --corpus passages.jsonl.gz --out my_index --encoder minilm
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from retrieval_index import PassageIndex, RetrievalError, build_index
from retrieval_index.manifest import CURRENT


@dataclass
class Options:
    """Index a corpus of passages for search."""

    corpus: Path
    """JSON Lines (.jsonl or .jsonl.gz), one {"id", "title", "text"} a line."""
    out: Path
    """The index folder to make."""
    encoder: str = "hashing"
    """"hashing" (no model), "minilm", a sentence-transformers model on the Hub, or its folder."""


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    began = time.perf_counter()
    was_there = (options.out / CURRENT).exists()
    try:
        index = build_index(options.corpus, options.out, options.encoder)
    except (RetrievalError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        return 130
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
        ("encoder", f"{manifest.encoder.name}, {manifest.encoder.dimension} dimensions"),
        ("index", f"{manifest.dense.factory}, {manifest.dense.metric}"),
        ("size", f"{size / 1e6:,.1f} MB"),
        ("built", manifest.created),
        ("time", took),
        ("fingerprint", index.fingerprint[:16]),
    ):
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    sys.exit(main())
