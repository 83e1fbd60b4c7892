"""Tokens per second of this policy and of Hugging Face `generate` called turn by turn.

    .venv/bin/python benchmarks/rollout.py

The same student plays the same tasks in the same environment, sampled at temperature 1, as many
episodes at once as there are. The other loop is what one writes first: pad the contexts of the
episodes that still run, call `generate` with its own stop strings, append, and feed everything
again the next turn. All hold their weights in what is fast on this processor, bfloat16 or float32.
Tokens are those that the student wrote; medians of `repetitions` in turn.
`--student runs/demo` measures a trained student, whose turns end at different times. `--vllm` adds
vLLM in this process (run it by .venv-vllm/bin/python), `--served URL` a server that
`ovd serve-model` started.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
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

from ovd_agent.models import checkpoint_path, compute_dtype, load_model, student_path
from ovd_agent.policies.base import TrainedPolicy
from ovd_agent.policies.served import ServedPolicy
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.policies.vllm_policy import VllmPolicy
from ovd_agent.rollouts.encoding import encode, encode_prompt
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.episode import Task
from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario

DTYPE = compute_dtype(torch.device("cpu"))
NAIVE = "generate, turn by turn"


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
    vllm: bool = False
    served: str | None = None
    out: Path | None = None
    """Default: a file of results named by the precision."""


def main(options: Options) -> None:
    model, tokenizer = load_model(student_path(options.student))
    move: Any = model.to
    move(DTYPE)
    scenario, tasks = make_scenario("ovd/WebQA-v0", max_invalid=None)
    played = [task for task in tasks[: options.tasks] for _ in range(options.samples)]
    own = TorchPolicy(model, tokenizer, slots=len(played), max_length=options.max_length)
    policies: dict[str, TrainedPolicy] = {"ovd": own}
    policies |= engines(options, tokenizer, len(played))

    def playing(policy: TrainedPolicy, seed: int) -> float:
        policy.publish(model, policy.version + 1)  # as after an update: nothing is cached
        policy.seed(seed)
        rollout = Rollout(
            scenario, policy, tokenizer, len(played), options.max_length, options.max_new_tokens
        )
        began = time.perf_counter()
        written = sum(each.written_tokens for each in rollout.play(played))
        return written / (time.perf_counter() - began)

    def naive(seed: int) -> float:
        torch.manual_seed(seed)
        began = time.perf_counter()
        new = options.max_new_tokens
        written = generate_turn_by_turn(model, tokenizer, scenario, played, new)
        return written / (time.perf_counter() - began)

    loops: dict[str, Callable[[int], float]] = {
        name: functools.partial(playing, policy) for name, policy in policies.items()
    }
    loops[NAIVE] = naive
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for repetition in range(options.repetitions):
        for name, loop in loops.items():
            rates[name].append(loop(options.seed + repetition))
            print(f"{name}: {rates[name][-1]:.0f} tokens/s", flush=True)
    show(rates, len(played))
    record: dict[str, Any] = {
        "student": options.student,
        "episodes": len(played),
        "repetitions": options.repetitions,
        "seed": options.seed,
        "dtype": str(DTYPE),
        "threads": torch.get_num_threads(),
        "tokens_per_second": {
            name: [round(value, 1) for value in values] for name, values in rates.items()
        },
        **surroundings(["torch", "transformers"]),
    }
    name = f"rollout-{DTYPE}.json".replace("torch.", "")
    write_record(options.out or RESULTS / name, record)


def engines(
    options: Options, tokenizer: PreTrainedTokenizerBase, slots: int
) -> dict[str, TrainedPolicy]:
    """Policies on vLLM, as asked for."""
    found: dict[str, TrainedPolicy] = {}
    weights = Path(tempfile.mkdtemp())
    if options.vllm:
        path = checkpoint_path(options.student)
        found["vLLM, in this process"] = VllmPolicy(
            path,
            tokenizer,
            folder=weights,
            slots=slots,
            max_length=options.max_length,
            dtype=DTYPE,
        )
    if options.served:
        urls = options.served.split(",")
        found["vLLM, served"] = ServedPolicy(
            urls, tokenizer, folder=weights, max_length=options.max_length
        )
    return found


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
    slow = statistics.median(rates[NAIVE])
    for name, values in rates.items():
        rate = statistics.median(values)
        table.add_row(name, f"{rate:.0f}", f"{rate / slow:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
