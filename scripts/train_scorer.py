"""Train a small model to judge steps as the oracle does, then measure it on other tasks.

    python scripts/train_scorer.py --model smollm2 --out runs/scorer
    python scripts/serve_model.py --model runs/scorer/model --role teacher --port 8002

The prompts are those of a language model as teacher, so the result serves as one.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import track

from ovd_agent.assemble import student_path
from ovd_agent.config import EnvironmentConfig
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.models import compute_dtype, load_model, quiet
from ovd_agent.report.calibration import write_page
from ovd_agent.scorer import ModelScorer, scoring_rows
from ovd_envs.calibration import KindCalibration, calibrate, known_steps
from ovd_envs.errors import OVDError
from ovd_envs.make import make_scenario
from retrieval_index.files import write_atomically


@dataclass(frozen=True)
class Options:
    """Train a judge."""

    model: str = "smollm2"
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    per_kind: int = 80
    """Training steps of each kind."""
    held_out: int = 40
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
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)


def main(options: Options) -> int:
    console = Console()
    torch.manual_seed(options.seed)
    model, tokenizer = load_model(student_path(options.model))
    dtype = compute_dtype(model.device)
    train = known_steps(*_played(options, "train"), options.per_kind, options.seed)
    test = known_steps(*_played(options, "test"), options.held_out, options.seed)
    rows = scoring_rows(tokenizer, train, shows_answer=options.shows_answer)
    steps = options.epochs * -(-len(rows) // options.rows_per_step)
    config = LearnerConfig(
        learning_rate=options.learning_rate, minibatches=1, decay_steps=steps, warmup_steps=2
    )
    learner = Learner(model, config, autocast=dtype != torch.float32)
    console.print(f"{len(rows)} steps to train on, {len(test)} to measure with")
    scorer = ModelScorer(model, tokenizer, shows_answer=options.shows_answer)
    before = calibrate(scorer, test)
    start, losses = time.perf_counter(), []
    batches = _batches(len(rows), options)
    for batch in track(batches, "training", console=Console(stderr=True)):
        losses.append(learner.update([rows[index] for index in batch])["ce_loss"])
    seconds = time.perf_counter() - start
    after = calibrate(scorer, test)
    _save(model, tokenizer, options.out / "model")
    record: dict[str, Any] = {
        **{name: str(value) for name, value in asdict(options).items()},
        "training_steps": len(train),
        "seconds": round(seconds, 1),
        "losses": [round(loss, 4) for loss in losses],
        "before": [asdict(kind) for kind in before],
        "after": [asdict(kind) for kind in after],
    }
    write_atomically(options.out / "scorer.json", json.dumps(record, indent=2))
    setting = f"{options.model} after {len(rows)} steps of {options.env}, {options.epochs} times"
    write_page(options.out / "report.html", f"Scorer from {options.model}", setting, after)
    for name, found in (("before", before), ("after", after)):
        console.print(name, *map(_line, found), sep="\n  ")
    console.print(f"{seconds / 60:.1f} minutes; {options.out / 'report.html'}")
    return 0


def _played(options: Options, split: Literal["train", "test"]) -> tuple[Any, Any]:
    what = options.environment.options(options.env, split, options.count)
    scenario, tasks = make_scenario(options.env, **what | {"teacher": "oracle"})
    return scenario, tasks[: options.count]


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


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Options, description=__doc__)))
    except OVDError as error:
        sys.exit(str(error))
