"""Memory of a teacher's signal by tokens and vocabulary: scores, top K, whole distributions.

    python benchmarks/memory_shapes.py

The paper's third experiment, on shapes without weights: a model of two narrow layers, so that what
is measured is the signal and not the model. "kept" are the bytes of the teacher that exist at once
when a step begins; "peak" is of the process that makes one forward and backward pass over all
tokens, less that of the same process before it. `opd`, `opd_topk` and `gkd` are this suite's: the
teacher is a second model, whose distributions are made a few tokens at a time. "stored" ways keep
what the teacher said of every token, as people do who ask it beforehand. What would take more than
`--most-gb` is not run; its bytes are those of its shape. Run it again to go on after a stop.

The C library gives large blocks back at once here (`MALLOC_MMAP_THRESHOLD_`). By default it keeps
what was freed, of which it cannot use all again.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from record import RESULTS, begun, surroundings, write_record
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM

from ovd_agent.algorithms.gkd import GKD
from ovd_agent.algorithms.opd import OPD
from ovd_agent.algorithms.opd_topk import OPDTopK
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel
from ovd_agent.learner.rows import BEHAVIOUR, TrainingRow
from ovd_agent.losses import loss_components

STEP_TOKENS = 64
"""Tokens of a step that is scored."""
ROW = 1024
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
"""Read by the C library when a process starts."""
OURS: dict[str, Any] = {"opd": OPD("x"), "opd_topk": OPDTopK("x", k=16), "gkd": GKD("x")}


@dataclass(frozen=True)
class Options:
    """Compare memory over shapes."""

    tokens: tuple[int, ...] = (1024, 4096, 16384, 32768)
    vocabularies: tuple[int, ...] = (49_152, 151_936)
    levels: tuple[int, ...] = (10, 100)
    """v: how many scores there are."""
    k: int = 16
    most_gb: float = 6.0
    out: Path = RESULTS / "memory_shapes.json"


def model_of(vocabulary: int) -> Qwen2ForCausalLM:
    shape = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(shape)


def rows_of(tokens: int, vocabulary: int, weight: str) -> list[TrainingRow]:
    rng = np.random.default_rng(0)
    rows: list[TrainingRow] = []
    for _ in range(tokens // ROW):
        row = TrainingRow.blank(rng.integers(0, vocabulary, ROW).tolist(), "student")
        row.stream(weight)[1:] = 1.0
        if weight != "ce":
            row.stream(BEHAVIOUR)[1:] = -10.0
        rows.append(row)
    return rows


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(way: str, tokens: int, vocabulary: int) -> int:
    """The peak of a pass of our learner above what models and rows take."""
    algorithm = OURS.get(way)
    student = model_of(vocabulary)
    weight = "ce" if algorithm is None else {"opd": "distill"}.get(way, "divergence")
    rows = rows_of(tokens, vocabulary, weight)
    losses, references = loss_components(), {}
    if algorithm is not None:
        losses = loss_components(algorithm.losses)
        references = {"teacher": model_of(vocabulary)}
    learner = Learner(student, LearnerConfig(), losses=losses, references=references)
    before = peak()
    for name, wants in algorithm.needs.references.items() if algorithm else ():
        FrozenModel(name, references[name]).measure(rows, wants)
    learner.backward(rows)
    return peak() - before


def stored(tokens: int, vocabulary: int, k: int) -> int:
    """The peak where the teacher's logits of every token are kept, and a row is learned at once."""
    student = model_of(vocabulary)
    before = peak()
    values = torch.zeros(tokens, k or vocabulary).uniform_()
    ids = torch.zeros(tokens, k, dtype=torch.int32) if k else None
    for start in range(0, tokens, ROW):
        some = slice(start, start + ROW)
        every = student(torch.zeros(1, ROW, dtype=torch.long)).logits[0].log_softmax(-1)
        said = every if ids is None else every.gather(1, ids[some].long())
        (-(values[some].softmax(-1) * said).sum() / tokens).backward()
    return peak() - before


def kept_bytes(way: str, tokens: int, vocabulary: int, options: Options) -> int:
    """Of the teacher's signal."""
    steps = tokens // STEP_TOKENS
    if way.startswith("scores"):
        return steps * (1 if int(way.split("= ")[1]) <= 256 else 2)
    sizes = {
        "opd": 4 * tokens,
        "opd_topk": 0,
        "gkd": 0,
        f"stored top {options.k}": 8 * options.k * tokens,
        "stored whole": 4 * tokens * vocabulary,
    }
    return sizes[way]


def main(options: Options) -> None:
    ways = [f"scores, v = {v}" for v in options.levels]
    ways += [*OURS, f"stored top {options.k}", "stored whole"]
    cells = [(v, n, way) for n in options.tokens for v in options.vocabularies for way in ways]
    where = {"row": ROW, **MALLOC, **surroundings(["torch", "transformers"])}
    results = resumed(options.out, where)
    done = {(each["vocabulary"], each["tokens"], each["way"]) for each in results}
    left = [cell for cell in cells if cell not in done]
    for vocabulary, tokens, way in track(left, "measuring", console=Console(stderr=True)):
        kept = kept_bytes(way, tokens, vocabulary, options)
        found: int | None = None
        if kept <= options.most_gb * 1e9:
            if way.startswith("stored"):
                k = 0 if way == "stored whole" else options.k
                found = in_process(stored, tokens, vocabulary, k)
            else:
                found = in_process(ours, way, tokens, vocabulary)
        results.append(
            {"vocabulary": vocabulary, "tokens": tokens, "way": way, "kept": kept, "peak": found}
        )
        write_record(options.out, {"results": results, **where})
    show(results, options)


def resumed(path: Path, where: dict[str, Any]) -> list[dict[str, Any]]:
    """What has been measured with these versions, on whichever processor: memory, not time."""
    record = begun(path)
    same = all(record.get(name) == where[name] for name in ("row", *MALLOC, "versions"))
    return list(record["results"]) if same else []


def in_process(function: Any, *arguments: Any) -> Any:
    os.environ.update(MALLOC)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def show(results: list[dict[str, Any]], options: Options) -> None:
    for vocabulary in options.vocabularies:
        heads = [f"{n // 1024}k: kept, peak" for n in options.tokens]
        table = Table("signal", *heads, title=f"vocabulary {vocabulary:,}")
        ways = dict.fromkeys(each["way"] for each in results)
        for way in ways:
            cells = [
                f"{shown(each['kept'])}, {shown(each['peak'])}"
                for each in results
                if (each["vocabulary"], each["way"]) == (vocabulary, way)
            ]
            table.add_row(way, *cells)
        Console().print(table)


def shown(size: int | None) -> str:
    if size is None:
        return "not run"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
