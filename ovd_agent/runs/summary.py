"""summary.json: what a finished run says of itself, from its logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from ovd_agent.algorithms import ALGORITHMS
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.costs import total
from ovd_agent.runs.logs import read_log
from retrieval_index.files import write_atomically

_LEDGER = (
    *("student_tokens", "teacher_tokens", "demonstrations"),
    *("trained_tokens", "computed_tokens", "optimizer_steps"),
)


def write_summary(config: TrainConfig, seconds: float, precision: str) -> dict[str, Any]:
    """Write summary.json from log.jsonl and eval.jsonl; returns it."""
    evaluations = read_log(config.out / "eval.jsonl")
    updates = read_log(config.out / "log.jsonl")
    summary = {
        "env": config.environment().name,
        "algorithm": ALGORITHMS.choose(config.algorithm).name,
        "student": config.student,
        "seed": config.seed,
        "em_before": evaluations[0]["em"],
        "em_after": evaluations[-1]["em"],
        "before": evaluations[0],
        "after": evaluations[-1],
        "acceptance": [line.get("acceptance") for line in updates],
        **{name: sum(line[name] for line in updates) for name in _LEDGER},
        "distinct_tasks": _distinct(updates, "tasks"),
        "distinct_demonstrations": _distinct(updates, "demonstrated"),
        "score_calls": sum(line["teacher"]["scores"] for line in updates),
        "teacher": total([line["teacher"] for line in [*updates, *evaluations]]),
        "stage_seconds": total([line["seconds"] for line in updates]),
        "teacher_seconds": total([line["teacher_seconds"] for line in updates]),
        "updates": len(updates),
        "untrained_updates": sum(not line["optimizer_steps"] for line in updates),
        "seconds": seconds,
        "peak_memory_mb": max((line["peak_memory_mb"] for line in updates), default=0.0),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }
    write_atomically(config.out / "summary.json", json.dumps(summary, indent=2))
    return summary


def _distinct(updates: Sequence[Mapping[str, Any]], name: str) -> int:
    """How many different tasks the updates name."""
    return len({task for line in updates for task in line[name]})
