"""Tokens per second of this policy and of Hugging Face `generate` called turn by turn.

    .venv/bin/python benchmarks/rollout.py

The same student plays the same tasks in the same environment, sampled at temperature 1, as many
episodes at once as there are. The other loop is what one writes first: pad the contexts of the
episodes that still run, call `generate` with its own stop strings, append, and feed everything
again the next turn. Tokens are those that the student wrote; medians of `repetitions` in turn.
`--student runs/demo` measures a trained student, whose turns end at different times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.assemble import student_path
from ovd_agent.models import load_model
from ovd_agent.policies.torch import TorchPolicy
from ovd_agent.rollout import Rollout, encode, encode_prompt
from ovd_envs.episode import Task
from ovd_envs.make import make_scenario
from ovd_envs.scenario import Scenario


@dataclass(frozen=True)
class Options:
    """Compare rollouts."""

    student: str = "smollm2"
    tasks: int = 16
    samples: int = 4
    """Episodes a task, as in a group."""
    max_new_tokens: int = 44
    max_length: int = 448
    repetitions: int = 3
    seed: int = 0
    out: Path = RESULTS / "rollout.json"


def main(options: Options) -> None:
    model, tokenizer = load_model(student_path(options.student))
    scenario, tasks = make_scenario("ovd/WebQA-v0", hops=[1, 2], top_k=1, max_turns=3)
    played = [task for task in tasks[: options.tasks] for _ in range(options.samples)]
    policy = TorchPolicy(model, tokenizer, slots=len(played), max_length=options.max_length)
    rollout = Rollout(
        scenario, policy, tokenizer, len(played), options.max_length, options.max_new_tokens
    )

    def ours() -> int:
        policy.weights_changed(policy.version + 1)  # as after an update: nothing is cached
        return sum(each.written_tokens for each in rollout.play(played))

    def naive() -> int:
        return generate_turn_by_turn(model, tokenizer, scenario, played, options.max_new_tokens)

    rates: dict[str, list[float]] = {"ovd": [], "generate, turn by turn": []}
    loops: list[Callable[[], int]] = [ours, naive]
    for repetition in range(options.repetitions):
        for name, loop in zip(rates, loops, strict=True):
            policy.seed(options.seed + repetition)
            torch.manual_seed(options.seed + repetition)
            began = time.perf_counter()
            rates[name].append(loop() / (time.perf_counter() - began))
            print(f"{name}: {rates[name][-1]:.0f} tokens/s", flush=True)
    show(rates, len(played))
    record: dict[str, Any] = {
        "student": options.student,
        "episodes": len(played),
        "repetitions": options.repetitions,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "tokens_per_second": {
            name: [round(value, 1) for value in values] for name, values in rates.items()
        },
        **surroundings(["torch", "transformers"]),
    }
    write_record(options.out, record)


@torch.inference_mode()
def generate_turn_by_turn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scenario: Scenario,
    tasks: Sequence[Task],
    max_new_tokens: int,
) -> int:
    """Play the tasks in lock step with `generate`; returns how many tokens were written."""
    generator: Any = model
    end: Any = tokenizer.eos_token_id
    episodes = scenario.begin(tasks)
    contexts = [encode_prompt(tokenizer, episode.prompt) for episode in episodes]
    written = 0
    while running := [place for place, episode in enumerate(episodes) if not episode.done]:
        width = max(len(contexts[place]) for place in running)
        padding = [width - len(contexts[place]) for place in running]
        ids = torch.tensor(
            [[end] * pad + contexts[p] for pad, p in zip(padding, running, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        output = generator.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            stop_strings=list(scenario.stop_strings),
            tokenizer=tokenizer,
            pad_token_id=end,
        )
        actions: list[str] = []
        for place, new in zip(running, output[:, width:].tolist(), strict=True):
            while new and new[-1] == end:
                new.pop()
            written += len(new)
            contexts[place] += new
            actions.append(str(tokenizer.decode(new, skip_special_tokens=True)))
        turns = scenario.advance([episodes[place] for place in running], actions)
        for place, turn in zip(running, turns, strict=True):
            contexts[place] += encode(tokenizer, turn.observation)
    return written


def show(rates: dict[str, list[float]], episodes: int) -> None:
    table = Table("loop", "tokens/s", "times", title=f"{episodes} episodes at once")
    slow = statistics.median(rates["generate, turn by turn"])
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(name, f"{rate:.0f}", f"{rate / slow:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
