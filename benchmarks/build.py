"""What a build adds to encoding: passages/s of the whole encoding stage beside the encoder's own.

    python benchmarks/build.py

Passages of SQuAD dev (shared/data). The encoder alone encodes them in batches and keeps nothing;
the build reads its stored passages, checks, counts what is cut, writes and checkpoints. Medians of
`repetitions` in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from retrieval_index import stages
from retrieval_index.build_state import BuildState
from retrieval_index.corpus import read_corpus
from retrieval_index.encoders import Encoder, make_encoder, precision_of

CORPUS = Path(__file__).parents[2] / "shared" / "data" / "corpora" / "squad_dev.jsonl.gz"
PACKAGES = ("sentence-transformers", "torch", "numpy")


@dataclass(frozen=True)
class Options:
    """Measure the encoding stage of a build."""

    encoders: tuple[str, ...] = ("minilm", "hashing")
    passages: int = 512
    repetitions: int = 5
    out: Path = RESULTS / "build.json"


def main(options: Options) -> None:
    results: dict[str, dict[str, Any]] = {}
    for name in options.encoders:
        encoder = make_encoder(name)
        with tempfile.TemporaryDirectory() as folder:
            work = BuildState(Path(folder), {})
            passages = islice(read_corpus(CORPUS), options.passages)
            stages.store_passages(passages, "squad_dev", None, work, False)
            encoder = stages.fit(encoder, work)
            alone, whole = measured(encoder, work, options.repetitions)
        results[name] = {
            "encoder_alone": alone,
            "build": whole,
            "precision": precision_of(encoder),
            "share": whole / alone,
        }
    show(results)
    record = {"passages": options.passages, "repetitions": options.repetitions, "results": results}
    write_record(options.out, record | surroundings(PACKAGES))


def measured(encoder: Encoder, work: BuildState, repetitions: int) -> tuple[float, float]:
    """Passages/s of the encoder and of the stage."""
    texts = [passage.contents for passage in stages.PassageStore(work.folder)]
    rates: dict[str, list[float]] = {"alone": [], "whole": []}
    for _ in range(repetitions):
        began = time.perf_counter()
        for start in range(0, len(texts), stages.BATCH):
            encoder.encode_passages(texts[start : start + stages.BATCH])
        rates["alone"].append(len(texts) / (time.perf_counter() - began))
        work.finish("encoded", None)
        began = time.perf_counter()
        stages.encode(encoder, work, False)
        rates["whole"].append(len(texts) / (time.perf_counter() - began))
    return statistics.median(rates["alone"]), statistics.median(rates["whole"])


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("encoder", "alone, passages/s", "in a build", "share")
    for name, row in results.items():
        cells = (f"{row['encoder_alone']:,.1f}", f"{row['build']:,.1f}", f"{row['share']:.0%}")
        table.add_row(f"{name}, {row['precision']}", *cells)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
