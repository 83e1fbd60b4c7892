"""Does a student plan as many hops as a question has? Probabilities at the end of the first hop.

    python benchmarks/plan_ends.py --models runs/continue_screen/imitation-0 runs/tokens/cold-0 \\
        runs/tokens/gkd-0

After "<think> birthplace of X" a plan for one hop ends and one for two goes on. Printed is the mean
probability of ending it there, by the hops of held-out questions: 1 and 0 are right. Nothing is
sampled, so it has no seed.
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

from ovd_agent.models import load_model, student_path
from ovd_agent.rollouts.encoding import encode, encode_prompt
from ovd_envs.episode import Task
from ovd_envs.registry import make_scenario

ENDS = "</"
"""The token that begins to close a plan."""


@dataclass(frozen=True)
class Options:
    """Measure where models end their plans."""

    models: tuple[str, ...]
    """As `ovd train --student`."""
    world_seed: int = 37
    questions: int = 100
    out: Path = RESULTS / "plan_ends.json"


@torch.inference_mode()
def ends(name: str, scenario: Any, tasks: Sequence[Task]) -> dict[int, float]:
    """The mean probability of ending the plan after one hop, by hops of the question."""
    model, tokenizer = load_model(student_path(name))
    [end] = tokenizer.encode(ENDS, add_special_tokens=False)
    found: dict[int, list[float]] = {}
    for episode in track(scenario.begin(list(tasks)), name, console=Console(stderr=True)):
        hop = episode.task.metadata["chain"][0]["query"]
        ids = encode_prompt(tokenizer, episode.prompt) + encode(tokenizer, f"<think> {hop}")
        shares = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
        found.setdefault(episode.task.hops, []).append(float(shares[end]))
    return {hops: round(fmean(each), 3) for hops, each in sorted(found.items())}


def main(options: Options) -> None:
    scenario, tasks = make_scenario(
        "ovd/WebQA-v0", split="test", world_seed=options.world_seed, count=options.questions
    )
    found = {name: ends(name, scenario, tasks[: options.questions]) for name in options.models}
    write_record(
        options.out,
        {
            "world_seed": options.world_seed,
            "questions": options.questions,
            "ends_after_one_hop": found,
            **surroundings(["torch", "transformers"]),
        },
    )
    hops = sorted({each for of_model in found.values() for each in of_model})
    table = Table("model", *(f"{each} hops" for each in hops))
    for name, of_model in found.items():
        table.add_row(name, *(f"{of_model[each]:.2f}" for each in hops))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
