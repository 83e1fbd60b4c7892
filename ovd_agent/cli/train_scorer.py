"""Train a small model to judge steps as the oracle does, then measure it on other tasks.

    ovd train-scorer --model smollm2 --out runs/scorer
    ovd serve-model --model runs/scorer/model --role teacher --port 8002

The prompts are those of a language model as teacher, so the result serves as one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ovd_agent.cli.parse import parse
from ovd_agent.fitting import FitOptions, fit, save_model
from ovd_agent.models import frozen_copy, load_model, student_path
from ovd_agent.report.calibration import write_page
from ovd_agent.runs.config import EnvironmentConfig
from ovd_agent.scorer import ModelScorer, scoring_rows
from ovd_envs.calibration.calibrate import KindCalibration, calibrate, known_steps
from ovd_envs.teachers import DEFAULT_TEACHER
from retrieval_index.files import write_atomically


@dataclass(frozen=True)
class Options(FitOptions, EnvironmentConfig):
    """Train a judge."""

    per_kind: int = 80
    """Training steps of each kind."""
    held_out_steps: int = 40
    """Steps of each kind, of other tasks, that are measured before and after."""
    count: int = 300
    """Episodes that the steps are taken from."""
    shows_answer: bool = True
    """Whether the judge is told the right answer."""
    out: Path = Path("runs/scorer")
    """Where model/, scorer.json and report.html go."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "")
    console = Console()
    torch.manual_seed(options.seed)
    model, tokenizer = load_model(student_path(options.model))
    count, seed = options.count, options.seed
    played = options.environment(teacher=DEFAULT_TEACHER, count=count).build()
    unseen = options.held_out(count, teacher=DEFAULT_TEACHER).build()
    train = known_steps(played[0], played[1][:count], options.per_kind, seed)
    test = known_steps(unseen[0], unseen[1][:count], options.held_out_steps, seed)
    rows = scoring_rows(tokenizer, train, shows_answer=options.shows_answer)
    console.print(f"{len(rows)} steps to train on, {len(test)} to measure with")

    def judged() -> list[KindCalibration]:
        played = frozen_copy(model)
        return calibrate(ModelScorer(played, tokenizer, shows_answer=options.shows_answer), test)

    before = judged()
    fitted = fit(model, rows, options)
    after = judged()
    save_model(model, tokenizer, options.out / "model")
    record: dict[str, Any] = {
        **options.record(),
        "training_steps": len(train),
        "seconds": round(fitted.seconds, 1),
        "losses": [round(loss, 4) for loss in fitted.losses],
        "before": [asdict(kind) for kind in before],
        "after": [asdict(kind) for kind in after],
    }
    write_atomically(options.out / "scorer.json", json.dumps(record, indent=2))
    env = options.environment().name
    setting = f"{options.model} after {len(rows)} steps of {env}, {options.epochs} times"
    write_page(options.out / "report.html", f"Scorer from {options.model}", setting, after)
    for name, found in (("before", before), ("after", after)):
        console.print(name, *map(_line, found), sep="\n  ")
    console.print(f"{fitted.seconds / 60:.1f} minutes; {options.out / 'report.html'}")
    return 0


def _line(kind: KindCalibration) -> str:
    return (
        f"{kind.kind:8} AUC {kind.auc:.2f}  rank correlation {kind.spearman:.2f}"
        f"  scores {' '.join(map(str, kind.levels))}"
    )
