"""A model trained on rows that are known beforehand: a judge's, a simulator's."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.learner.learner import Learner, LearnerConfig, Progress
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.lora import plain_weights
from ovd_agent.models import compute_dtype, quiet

_WARMUP_STEPS = 2


@dataclass(frozen=True)
class FitOptions:
    """How a model is fitted to rows."""

    model: str = "smollm2"
    """The model to train: as `ovd train --student`."""
    epochs: int = 2
    """Passes over the rows."""
    rows_per_step: int = 16
    """Rows of an optimiser step."""
    learning_rate: float = 1e-4
    """Of AdamW, after a short warm-up; it falls to a tenth."""
    seed: int = 0
    """Random seed of tasks, of what is held out, and of the order of rows."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The mean cross-entropy of each optimiser step, and the seconds of all."""

    losses: list[float]
    seconds: float


def fit(model: PreTrainedModel, rows: Sequence[TrainingRow], options: FitOptions) -> Fitted:
    """Train `model` in place on the rows, in another order each epoch, with progress on stderr."""
    config = LearnerConfig(
        learning_rate=options.learning_rate, minibatches=1, warmup_steps=_WARMUP_STEPS
    )
    learner = Learner(model, config, autocast=compute_dtype(model.device) != torch.float32)
    steps = batches(len(rows), options.epochs, options.rows_per_step, options.seed)
    start, losses = time.perf_counter(), list[float]()
    for place, batch in track([*enumerate(steps)], "training", console=Console(stderr=True)):
        progress = Progress(place / len(steps), (place + 1) / len(steps))
        losses.append(learner.update([rows[i] for i in batch], progress=progress)["ce_loss"])
    return Fitted(losses, time.perf_counter() - start)


def batches(count: int, epochs: int, size: int, seed: int) -> list[list[int]]:
    """The rows of each optimiser step; an epoch may end within one."""
    order: list[int] = []
    for epoch in range(epochs):
        order += random.Random(f"{seed} {epoch}").sample(range(count), count)
    return [order[at : at + size] for at in range(0, len(order), size)]


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Write a model's folder whole, in place of what is there; adapters are merged."""
    temporary = target.with_name("unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        model.save_pretrained(temporary, state_dict=plain_weights(model))
        tokenizer.save_pretrained(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
