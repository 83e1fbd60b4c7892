"""Does a student plan as many hops as a question has? Probabilities where a plan is decided.

    python benchmarks/plan_ends.py --models runs/continue_screen/imitation-0 runs/tokens/cold-0 \\
        runs/tokens/gkd-0

For the founder of the employer of X, a plan begins with its employer and goes on. "begins": the
mean probability of the first hop's first token after "<think>", over held-out questions of two hops
whose other hop begins with another token; "other": that of the other hop's. "ends": the mean
probability of ending the plan after "<think> employer of X", by the hops of a question: 1 and 0 are
right. Nothing is sampled, so it has no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from ovd_agent.models import load_model, student_path
from ovd_agent.rollouts.encoding import encode, encode_prompt
from ovd_envs.episode import Task
from ovd_envs.registry import make_scenario

OPENS, ENDS = "<think>", "</"
"""What opens a plan, and the token that begins to close it."""
COLUMNS = ("begins", "other", "ends, 1", "ends, 2")


@dataclass(frozen=True)
class Options:
    """Measure where models end their plans."""

    models: tuple[str, ...]
    """As `ovd train --student`."""
    world_seed: int = 37
    questions: int = 100
    out: Path = RESULTS / "plan_ends.json"


@torch.inference_mode()
def measured(name: str, scenario: Any, tasks: Sequence[Task]) -> dict[str, float]:
    """The mean probabilities of a model."""
    model, tokenizer = load_model(student_path(name))
    [end] = tokenizer.encode(ENDS, add_special_tokens=False)
    opened = encode(tokenizer, OPENS)
    found: dict[str, list[float]] = {}

    def after(prompt: list[int], said: list[int]) -> Tensor:
        return model(torch.tensor([prompt + said])).logits[0, -1].float().softmax(-1)

    for episode in track(scenario.begin(list(tasks)), name, console=Console(stderr=True)):
        plans = [
            encode(tokenizer, f"{OPENS} {link['query']}") for link in episode.task.metadata["chain"]
        ]
        prompt = encode_prompt(tokenizer, episode.prompt)
        share = float(after(prompt, plans[0])[end])
        found.setdefault(f"ends, {episode.task.hops}", []).append(share)
        first, other = (plan[len(opened)] for plan in (plans[0], plans[-1]))
        if first != other:
            shares = after(prompt, opened)
            found.setdefault("begins", []).append(float(shares[first]))
            found.setdefault("other", []).append(float(shares[other]))
    return {what: round(fmean(each), 3) for what, each in sorted(found.items())}


def main(options: Options) -> None:
    scenario, tasks = make_scenario(
        "ovd/WebQA-v0", split="test", world_seed=options.world_seed, count=options.questions
    )
    found = {name: measured(name, scenario, tasks[: options.questions]) for name in options.models}
    write_record(
        options.out,
        {
            "world_seed": options.world_seed,
            "questions": options.questions,
            "plans": found,
            **surroundings(["torch", "transformers"]),
        },
    )
    table = Table("model", *COLUMNS)
    for name, of_model in found.items():
        table.add_row(name, *(f"{of_model[each]:.2f}" for each in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
