"""This learner beside a padded loop with full logits, on the same rows.

    .venv/bin/python benchmarks/learner.py

The rows are episodes that the student samples first, four a task, with made-up advantages. Both
take one optimiser step over all of them: forward, backward, gradient clipping, AdamW. The other
loop is what one writes first: micro-batches of `rows_at_once` rows in the order they come, padded
to the longest, logits of every position, their log-softmax, then a mask. Each runs in a process of
its own, for its peak memory. Both multiply in what is fast on this processor, bfloat16 or float32.
Tokens are those of the rows without padding. The gradients are
compared, and so are the multiplications by weights that each loop makes, attention left out: no
implementation is faster than their ratio where these take all of the time.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table
from torch import nn

from ovd_agent.algorithms.rows import policy_row
from ovd_agent.learner.batches import micro_batches
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow, divisors
from ovd_agent.losses import loss_components
from ovd_agent.models import compute_dtype, load_model, student_path
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.registry import make_scenario

Loop = Literal["ovd", "padded, full logits"]
LOOPS: tuple[Loop, ...] = ("ovd", "padded, full logits")
DTYPE = compute_dtype(torch.device("cpu"))
AUTOCAST = DTYPE is not torch.float32
PROBED = "model.layers.0.self_attn.q_proj.weight"


@dataclass(frozen=True)
class Options:
    """Compare optimiser steps."""

    student: str = "smollm2"
    tasks: int = 4
    samples: int = 4
    rows_at_once: int = 8
    """Of the padded loop."""
    token_budget: int = 2048
    """Of this learner: about as many tokens."""
    repetitions: int = 3
    seed: int = 0
    out: Path | None = None
    """Default: a file of results named by the precision."""


LOSSES = loss_components()


def sampled_rows(options: Options) -> list[TrainingRow]:
    """Rows of sampled episodes; advantages of both signs, so that every token has a gradient."""
    model, tokenizer = load_model(student_path(options.student))
    scenario, tasks = make_scenario("ovd/WebQA-v0", max_invalid=None)
    played = [task for task in tasks[: options.tasks] for _ in range(options.samples)]
    policy = TorchPolicy(model, tokenizer, slots=len(played), max_length=448, seed=options.seed)
    rollout = Rollout(scenario, policy, tokenizer, len(played), 448, max_new_tokens=44)
    return [
        policy_row(trajectory, [(-1.0) ** index] * len(trajectory.episode.turns))
        for index, trajectory in enumerate(rollout.play(played))
    ]


def measure(loop: Loop, options: Options, rows: list[TrainingRow]) -> dict[str, Any]:
    """Seconds of each step, peak memory of the process and one layer's first gradient."""
    model, _ = load_model(student_path(options.student))
    config = LearnerConfig(
        minibatches=1, learning_rate=1e-6, warmup_steps=0, token_budget=options.token_budget
    )
    learner = Learner(model, config, autocast=AUTOCAST)
    step: Callable[[], object] = lambda: learner.update(rows)  # noqa: E731
    if loop == "ovd":
        learner.backward(rows)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        step = lambda: padded_step(model, optimizer, rows, options.rows_at_once)  # noqa: E731
        padded_backward(model, rows, options.rows_at_once)
    gradient = model.get_parameter(PROBED).grad
    assert gradient is not None
    probe = gradient.numpy().copy()
    seconds: list[float] = []
    for _ in range(options.repetitions):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "gradient": probe}


def padded_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[TrainingRow],
    rows_at_once: int,
    dtype: torch.dtype = DTYPE,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    padded_backward(model, rows, rows_at_once, dtype)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def padded_backward(
    model: Any, rows: Sequence[TrainingRow], rows_at_once: int, dtype: torch.dtype = DTYPE
) -> None:
    """The clipped policy gradient of the rows, as one writes it first."""
    model.zero_grad(set_to_none=True)
    divisor = divisors(rows, LOSSES, "tokens")[0]
    for start in range(0, len(rows), rows_at_once):
        batch = rows[start : start + rows_at_once]
        longest = max(len(row.ids) for row in batch)
        ids, mask, weights, old = (torch.zeros(len(batch), longest) for _ in range(4))
        ids, mask = ids.long(), mask.long()
        for place, row in enumerate(batch):
            size = len(row.ids)
            ids[place, :size] = torch.tensor(row.ids)
            mask[place, :size] = 1
            weights[place, :size] = torch.from_numpy(row.stream("pg") * row.stream("advantage"))
            old[place, :size] = torch.from_numpy(row.stream("behaviour")).nan_to_num()
        ids, mask, weights, old = (each.to(model.device) for each in (ids, mask, weights, old))
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        every = logits[:, :-1].float().log_softmax(-1)
        logprobs = every.gather(-1, ids[:, 1:, None]).squeeze(-1)
        ratio = (logprobs - old[:, 1:]).exp()
        clipped = ratio.clamp(0.8, 1.2)
        loss = -torch.minimum(ratio * weights[:, 1:], clipped * weights[:, 1:]).sum() / divisor
        loss.backward()


def fewer_products(rows: Sequence[TrainingRow], options: Options) -> float:
    """How many times as many multiplications by weights the padded loop makes, padding included."""
    model, _ = load_model(student_path(options.student))
    head = cast(nn.Linear, model.get_output_embeddings())
    linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    trunk = sum(module.weight.numel() for module in linear if module is not head)
    batches = list(micro_batches(rows, LOSSES, [1.0] * len(rows), options.token_budget))
    read = sum(len(batch.prefix) + batch.input_ids.numel() for batch in batches)
    predicted = sum(len(batch.targets) for batch in batches)
    lengths = [len(row.ids) for row in rows]
    together = (
        lengths[at : at + options.rows_at_once] for at in range(0, len(rows), options.rows_at_once)
    )
    padded = sum(len(batch) * max(batch) for batch in together)
    weights = head.weight.numel()
    return padded * (trunk + weights) / (read * trunk + predicted * weights)


def main(options: Options) -> None:
    rows = sampled_rows(options)
    tokens = sum(len(row.ids) for row in rows)
    products = fewer_products(rows, options)
    results: dict[str, dict[str, Any]] = {}
    for loop in LOOPS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[loop] = pool.apply(measure, (loop, options, rows))
    one, other = (results[loop].pop("gradient") for loop in LOOPS)
    difference = float(((one - other) ** 2).sum() ** 0.5 / (other**2).sum() ** 0.5)
    table = Table("learner", "tokens/s", "peak memory", title=f"{len(rows)} rows, {tokens} tokens")
    for loop, result in results.items():
        result["tokens_per_second"] = tokens / statistics.median(result["seconds"])
        cells = (f"{result['tokens_per_second']:.0f}", f"{result['peak_mb']:.0f} MB")
        table.add_row(loop, *cells)
    table.caption = (
        f"norm of the gradients' difference: {difference:.1e} of the gradient's; the padded loop"
        f" makes {products:.2f} times as many products with weights"
    )
    Console().print(table)
    record: dict[str, Any] = {
        "student": options.student,
        "rows": len(rows),
        "tokens": tokens,
        "rows_at_once": options.rows_at_once,
        "token_budget": options.token_budget,
        "seed": options.seed,
        "dtype": str(DTYPE),
        "threads": torch.get_num_threads(),
        "gradient_difference": difference,
        "products": products,
        "results": results,
        **surroundings(["torch", "transformers"]),
    }
    name = f"learner-{DTYPE}.json".replace("torch.", "")
    write_record(options.out or RESULTS / name, record)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
