"""Train a small model to judge steps as the oracle does, then measure it on other tasks.

    ovd train-scorer --model smollm2 --out runs/scorer
    ovd serve-model --model runs/scorer/model --role teacher --port 8002

The prompts are those of a language model as teacher, so the result serves as one.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from ovd_agent.cli.parse import parse
from ovd_agent.learner.learner import Learner, LearnerConfig, Progress
from ovd_agent.models import compute_dtype, load_model, quiet, student_path
from ovd_agent.report.calibration import write_page
from ovd_agent.runs.config import EnvironmentConfig
from ovd_agent.scorer import ModelScorer, scoring_rows
from ovd_envs.calibration.calibrate import KindCalibration, calibrate, known_steps
from ovd_envs.teachers import DEFAULT_TEACHER
from retrieval_index.files import write_atomically


@dataclass(frozen=True)
class Options(EnvironmentConfig):
    """Train a judge."""

    model: str = "smollm2"
    """The model to train: as `ovd train --student`."""
    per_kind: int = 80
    """Training steps of each kind."""
    held_out_steps: int = 40
    """Steps of each kind, of other tasks, that are measured before and after."""
    count: int = 300
    """Episodes that the steps are taken from."""
    epochs: int = 2
    rows_per_step: int = 16
    learning_rate: float = 1e-4
    shows_answer: bool = True
    """Whether the judge is told the right answer."""
    seed: int = 0
    out: Path = Path("runs/scorer")
    """Where model/, scorer.json and report.html go."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "")
    console = Console()
    torch.manual_seed(options.seed)
    model, tokenizer = load_model(student_path(options.model))
    dtype = compute_dtype(model.device)
    count, seed = options.count, options.seed
    played = options.environment(teacher=DEFAULT_TEACHER, count=count).build()
    unseen = options.held_out(count, teacher=DEFAULT_TEACHER).build()
    train = known_steps(played[0], played[1][:count], options.per_kind, seed)
    test = known_steps(unseen[0], unseen[1][:count], options.held_out_steps, seed)
    rows = scoring_rows(tokenizer, train, shows_answer=options.shows_answer)
    config = LearnerConfig(learning_rate=options.learning_rate, minibatches=1, warmup_steps=2)
    learner = Learner(model, config, autocast=dtype != torch.float32)
    console.print(f"{len(rows)} steps to train on, {len(test)} to measure with")
    scorer = ModelScorer(model, tokenizer, shows_answer=options.shows_answer)
    before = calibrate(scorer, test)
    start, losses = time.perf_counter(), []
    batches = _batches(len(rows), options)
    for place, batch in track([*enumerate(batches)], "training", console=Console(stderr=True)):
        progress = Progress(place / len(batches), (place + 1) / len(batches))
        chosen = [rows[index] for index in batch]
        losses.append(learner.update(chosen, progress=progress)["ce_loss"])
    seconds = time.perf_counter() - start
    after = calibrate(scorer, test)
    _save(model, tokenizer, options.out / "model")
    record: dict[str, Any] = {
        **options.record(),
        "training_steps": len(train),
        "seconds": round(seconds, 1),
        "losses": [round(loss, 4) for loss in losses],
        "before": [asdict(kind) for kind in before],
        "after": [asdict(kind) for kind in after],
    }
    write_atomically(options.out / "scorer.json", json.dumps(record, indent=2))
    env = options.environment().name
    setting = f"{options.model} after {len(rows)} steps of {env}, {options.epochs} times"
    write_page(options.out / "report.html", f"Scorer from {options.model}", setting, after)
    for name, found in (("before", before), ("after", after)):
        console.print(name, *map(_line, found), sep="\n  ")
    console.print(f"{seconds / 60:.1f} minutes; {options.out / 'report.html'}")
    return 0


def _batches(count: int, options: Options) -> list[list[int]]:
    order: list[int] = []
    for epoch in range(options.epochs):
        order += random.Random(f"{options.seed} {epoch}").sample(range(count), count)
    size = options.rows_per_step
    return [order[at : at + size] for at in range(0, len(order), size)]


def _save(model: Any, tokenizer: Any, target: Path) -> None:
    temporary = target.with_name("unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)


def _line(kind: KindCalibration) -> str:
    return (
        f"{kind.kind:8} AUC {kind.auc:.2f}  rank correlation {kind.spearman:.2f}"
        f"  scores {' '.join(map(str, kind.levels))}"
    )
