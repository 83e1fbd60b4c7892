"""Memory of learning from scores, and of learning from a teacher's logits, on the same rows.

    python benchmarks/memory.py

The rows are episodes that the student samples first. "scores" is OVD: a score a step, and this
learner. The others distil: the teacher's logits of every token are kept, all of the vocabulary or
the 16 largest with their ids, and a padded loop, `rows_at_once` at a time, minimises the
cross-entropy to them. The teacher of the logits is the student's own checkpoint, since a
teacher of another vocabulary has none that fit. "kept" are the bytes of what the teacher gave;
"peak" is of the process that makes one forward and backward pass over all rows, weights included,
each in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from learner import Options as LearnerOptions
from learner import padded_backward, sampled_rows
from numpy.typing import NDArray
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.models import load_model, student_path

Way = Literal["scores", "scores, padded loop", "top 16 logits", "all logits"]
WAYS: tuple[Way, ...] = ("scores", "scores, padded loop", "top 16 logits", "all logits")
TOP = 16
SCORE_BYTES = 1
Kept = list[tuple[NDArray[np.float32], NDArray[np.int32] | None]]
"""For each row the logits [tokens, kept] and, where not all are kept, their ids."""


@dataclass(frozen=True)
class Options:
    """Compare memory."""

    student: str = "smollm2"
    tasks: int = 4
    samples: int = 4
    rows_at_once: int = 4
    seed: int = 0
    out: Path = RESULTS / "memory.json"


def teacher_logits(student: str, rows: Sequence[TrainingRow], way: Way, folder: Path) -> None:
    """Write what the teacher gives for each row."""
    model, _ = load_model(student_path(student))
    for number, row in enumerate(rows):
        with torch.no_grad():
            logits = model(torch.tensor(row.ids)[None]).logits[0].float()
        if way == "all logits":
            np.save(folder / f"{number}.npy", logits.numpy())
        else:
            top = logits.topk(TOP)
            np.save(folder / f"{number}.npy", top.values.numpy())
            np.save(folder / f"{number}.ids.npy", top.indices.numpy().astype(np.int32))


def read_kept(rows: Sequence[TrainingRow], folder: Path) -> Kept:
    kept: Kept = []
    for number in range(len(rows)):
        ids = folder / f"{number}.ids.npy"
        kept.append((np.load(folder / f"{number}.npy"), np.load(ids) if ids.exists() else None))
    return kept


def measure(way: Way, options: Options, rows: list[TrainingRow], folder: Path) -> dict[str, Any]:
    model, _ = load_model(student_path(options.student))
    if way == "scores":
        Learner(model, LearnerConfig(minibatches=1)).backward(rows)
        kept = SCORE_BYTES * scored_steps(rows)
    elif way == "scores, padded loop":
        padded_backward(model, rows, options.rows_at_once)
        kept = SCORE_BYTES * scored_steps(rows)
    else:
        targets = read_kept(rows, folder)
        kept = sum(values.nbytes + (0 if ids is None else ids.nbytes) for values, ids in targets)
        distil_backward(model, rows, targets, options.rows_at_once)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"kept_bytes": kept, "peak_bytes": peak}


def scored_steps(rows: Sequence[TrainingRow]) -> int:
    """Steps that were scored: runs of tokens that the student wrote."""
    wrote = [np.flatnonzero(row.has("pg")) for row in rows]
    return sum(1 + int((np.diff(places) > 1).sum()) for places in wrote if len(places))


def distil_backward(model: Any, rows: Sequence[TrainingRow], kept: Kept, rows_at_once: int) -> None:
    """The cross-entropy to the teacher's distribution on the tokens that the student wrote."""
    total = sum(int((row.has("pg")).sum()) for row in rows)
    for start in range(0, len(rows), rows_at_once):
        batch = rows[start : start + rows_at_once]
        longest = max(len(row.ids) for row in batch)
        ids, mask = (torch.zeros(len(batch), longest, dtype=torch.long) for _ in range(2))
        for place, row in enumerate(batch):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            mask[place, : len(row.ids)] = 1
        every = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
        loss = torch.zeros(())
        for place, row in enumerate(batch):
            values, chosen = kept[start + place]
            wrote = torch.from_numpy(np.flatnonzero(row.has("pg"))) - 1
            wanted = torch.from_numpy(values)[wrote].softmax(-1)
            said = every[place, wrote]
            if chosen is not None:
                said = said.gather(-1, torch.from_numpy(chosen)[wrote].long())
            loss = loss - (wanted * said).sum() / total
        loss.backward()


def main(options: Options) -> None:
    rows = sampled_rows(
        LearnerOptions(options.student, options.tasks, options.samples, seed=options.seed)
    )
    tokens = sum(len(row.ids) for row in rows)
    results: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            if "logits" in way:
                in_process(teacher_logits, options.student, rows, way, Path(folder))
            results[way] = in_process(measure, way, options, rows, Path(folder))
    model, _ = load_model(student_path(options.student))
    vocabulary = int(model.config.vocab_size)
    show(results, len(rows), tokens, vocabulary)
    record: dict[str, Any] = {
        "student": options.student,
        "rows": len(rows),
        "tokens": tokens,
        "longest": max(len(row.ids) for row in rows),
        "steps": scored_steps(rows),
        "vocabulary": vocabulary,
        "rows_at_once": options.rows_at_once,
        "seed": options.seed,
        "results": results,
        **surroundings(["torch", "transformers"]),
    }
    write_record(options.out, record)


def in_process(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def show(results: dict[str, dict[str, Any]], rows: int, tokens: int, vocabulary: int) -> None:
    table = Table("what is learned from", "kept", "peak", title=f"{rows} rows, {tokens} tokens")
    for way, result in results.items():
        kept = result["kept_bytes"]
        shown = f"{kept:,} B" if kept < 10_000 else f"{kept / 1e6:,.1f} MB"
        table.add_row(way, shown, f"{result['peak_bytes'] / 1e9:.1f} GB")
    table.caption = f"tokens x vocabulary x 4 bytes = {4e-6 * tokens * vocabulary:,.0f} MB"
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
