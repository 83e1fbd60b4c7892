"""What it brings to search and score while the policy generates.

    .venv/bin/python benchmarks/overlap.py

A small random student plays with a teacher that takes 50 ms for every batch of steps, as a server
does: in turn, and with `Rollout.overlap`. Episodes/s, medians of repetitions in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_agent.models import load_model
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.episode import VerbalScore
from ovd_envs.registry import make_scenario
from ovd_envs.teachers.base import ScoreRequest


@dataclass(frozen=True)
class Options:
    """Compare rollouts with and without overlap."""

    student: str = "tiny"
    episodes: int = 128
    slots: int = 64
    delay_ms: float = 50.0
    max_new_tokens: int = 24
    repetitions: int = 5
    out: Path = RESULTS / "overlap.json"


class SlowTeacher:
    """Scores 5 after a delay."""

    def __init__(self, delay_ms: float) -> None:
        self.delay = delay_ms / 1000

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        time.sleep(self.delay)
        return [VerbalScore(5, 5.0, "", "slow")] * len(requests)


def main(options: Options) -> None:
    model, tokenizer = load_model(options.student)
    teacher = SlowTeacher(options.delay_ms)
    scenario, tasks = make_scenario(
        "ovd/WebQA-v0", max_invalid=None, count=options.episodes, teacher=teacher
    )
    policy = TorchPolicy(model, tokenizer, slots=options.slots, max_length=1024)
    rates: dict[str, list[float]] = {"in turn": [], "overlapped": []}
    for repetition in range(options.repetitions):
        for name, values in rates.items():
            policy.publish(model, repetition)
            policy.seed(repetition)
            rollout = Rollout(
                scenario,
                policy,
                tokenizer,
                options.slots,
                1024,
                options.max_new_tokens,
                overlap=name == "overlapped",
            )
            began = time.perf_counter()
            rollout.play(tasks[: options.episodes])
            values.append(options.episodes / (time.perf_counter() - began))
    slow = statistics.median(rates["in turn"])
    table = Table("search and score", "episodes/s", "times")
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(name, f"{rate:.1f}", f"{rate / slow:.2f}")
    Console().print(table)
    record: dict[str, Any] = {
        "student": options.student,
        "episodes": options.episodes,
        "slots": options.slots,
        "delay_ms": options.delay_ms,
        "threads": torch.get_num_threads(),
        "episodes_per_second": {
            name: [round(value, 2) for value in values] for name, values in rates.items()
        },
        **surroundings(["torch", "transformers"]),
    }
    write_record(options.out, record)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
