"""How noisy the gradient of each algorithm is, on real models.

    python benchmarks/gradient_variance.py --student runs/tokens/cold-0 \\
        --teacher runs/continue_screen/imitation-0

"one token": the contexts are what the student played. The variance of the gradient by the logits,
over the token that is sampled there, is a sum over the vocabulary and exact; printed is that of
`vopd` as a share of that of `opd`. What reads whole distributions has none.

"a batch": the same tasks are played several times. Noise is the trace of the covariance of the
gradient of all weights, divided by the squared norm of its mean: with a noise of 1, a step goes as
far astray as it goes ahead. Demonstrations of the oracle are the same each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from ovd_agent.cli.parse import parse
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import Tokens
from ovd_agent.losses.distillation import TEACHER, BaselinedDistillation
from ovd_agent.models import load_model, student_path
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.collect import Collector, Stopwatch
from ovd_agent.runs.config import TrainConfig

BASELINES = {"vopd": 0, "vopd, k = 16": 16}
CHUNK = 64
"""Contexts whose distributions are compared at a time."""


@dataclass(frozen=True)
class Options:
    """Measure the noise of gradients."""

    student: str
    """As `ovd train --student`, past its cold start."""
    teacher: str
    """Of tokens, as `--algorithm.teacher-model`."""
    algorithms: tuple[str, ...] = ("opd", "vopd", "opd_topk", "gkd", "grpo", "ovd")
    world_seed: int = 37
    tasks: int = 4
    batches: int = 8
    out: Path = RESULTS / "gradient_variance.json"


def main(options: Options) -> None:
    noise = {name: noise_of(name, options) for name in options.algorithms}
    tokens = of_tokens(options)
    write_record(
        options.out,
        {
            "student": options.student,
            "teacher": options.teacher,
            "tasks": options.tasks,
            "batches": options.batches,
            "one token": tokens,
            "a batch": noise,
            **surroundings(["torch", "transformers"]),
        },
    )
    show(tokens, noise)


def collector_of(algorithm: str, options: Options) -> Collector:
    words = ["--student", options.student, "--algorithm", algorithm, "--env.world-seed"]
    words += [str(options.world_seed), "--tasks-per-update", str(options.tasks)]
    if algorithm not in ("grpo", "ovd"):
        words += ["--algorithm.teacher-model", options.teacher]
    config = parse(TrainConfig, [*words, "--updates", str(options.batches)], "", {})
    return Collector(config, assemble(config))


def noise_of(algorithm: str, options: Options) -> dict[str, float]:
    """Of the gradient of a batch, over plays of the same tasks."""
    collector = collector_of(algorithm, options)
    parts: Any = collector.parts
    tasks = collector.tasks(0)
    parts.publish()
    total: list[Tensor] = []
    squares: list[float] = []
    for batch in track(range(options.batches), algorithm, console=Console(stderr=True)):
        parts.learner.backward(collector.collect(batch, Stopwatch(), tasks).rows)
        found = [each.grad for each in parts.model.parameters() if each.grad is not None]
        squares.append(sum(float(each.square().sum()) for each in found))
        total = total or [torch.zeros_like(each) for each in found]
        for one, other in zip(total, found, strict=True):
            one += other
    count = options.batches
    of_mean = sum(float(each.square().sum()) for each in total) / count**2
    covariance = (sum(squares) - count * of_mean) / (count - 1)
    # The mean of a few batches is itself noisy: what that adds to its norm is taken off.
    signal = of_mean - covariance / count
    return {"covariance": covariance, "signal": signal, "noise": covariance / signal}


def of_tokens(options: Options) -> dict[str, dict[str, float]]:
    """What share of the variance of `opd` each baseline leaves, over contexts of the student."""
    collector = collector_of("opd", options)
    parts: Any = collector.parts
    parts.publish()
    rows = collector.collect(0, Stopwatch()).rows
    teacher, _ = load_model(student_path(options.teacher))
    shares: dict[str, list[Tensor]] = {name: [] for name in BASELINES}
    alone: list[Tensor] = []
    for own, theirs, targets in contexts(parts.model, teacher, rows):
        plain = theirs - own
        alone.append(variance(own, plain))
        for name, k in BASELINES.items():
            tokens = Tokens(
                own.gather(1, targets[:, None])[:, 0],
                {},
                distribution=own,
                targets=targets,
                references={TEACHER: theirs},
            )
            less = BaselinedDistillation(k=k).advantage(tokens)
            baseline = plain.gather(1, targets[:, None])[:, 0] - less
            shares[name].append(variance(own, plain - baseline[:, None]))
    of_opd = torch.cat(alone)
    found: dict[str, dict[str, float]] = {}
    for name, each in shares.items():
        left = torch.cat(each)
        found[name] = {
            "contexts": len(left),
            "of_total": float(left.sum() / of_opd.sum()),
            "median": float((left / of_opd).median()),
            "lower_in": float((left < of_opd).double().mean()),
        }
    return found


@torch.no_grad()
def contexts(student: Any, teacher: Any, rows: Sequence[TrainingRow]) -> Any:
    """Log-probabilities [n, V] of both, and the sampled ids [n], a few contexts at a time."""
    for row in rows:
        places = torch.from_numpy(row.has("distill")).nonzero()[:, 0]
        ids = torch.tensor([row.ids])
        states = [each.get_decoder()(ids).last_hidden_state[0] for each in (student, teacher)]
        for some in places.split(CHUNK):
            said = [
                model.get_output_embeddings()(state[some - 1]).double().log_softmax(1)
                for model, state in zip((student, teacher), states, strict=True)
            ]
            yield *said, ids[0, some]


def variance(own: Tensor, advantages: Tensor) -> Tensor:
    """Of -A ∇log p by the logits [n], over the sampled token, from log p and A of every token."""
    shares = own.exp()
    squared = (shares * advantages**2 * (1 - 2 * shares + (shares**2).sum(1, keepdim=True))).sum(1)
    weighted = shares * advantages
    mean = weighted - shares * weighted.sum(1, keepdim=True)
    return squared - (mean**2).sum(1)


def show(tokens: dict[str, dict[str, float]], noise: dict[str, dict[str, float]]) -> None:
    table = Table(
        "baseline", "contexts", "of opd's variance", "median", "lower in", title="one token"
    )
    for name, each in tokens.items():
        figures = (f"{each[key]:.3f}" for key in ("of_total", "median", "lower_in"))
        table.add_row(name, f"{each['contexts']:.0f}", *figures)
    Console().print(table)
    table = Table("algorithm", "covariance", "squared mean", "noise", title="a batch")
    for name, each in noise.items():
        table.add_row(name, *(f"{each[key]:.3g}" for key in ("covariance", "signal", "noise")))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
