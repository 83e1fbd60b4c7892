"""On-policy Verbal Distillation from top to bottom, in one file.

    python examples/ovd_in_one_file.py --updates 12          # what `make demo` does, in short
    python examples/ovd_in_one_file.py --student tiny --updates 2 --tasks 3 --held-out 4

The student plays, the teacher scores every step, what scores below θ is replaced by a
demonstration, and the student is updated on the mixture. Nothing is hidden here but sampling
(`Rollout` over a policy) and the scoring itself (the environment's teacher); `ovd train` adds
checkpoints, reports and options.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ovd_agent import Rollout, TrainingRow, Trajectory, load_model
from ovd_agent.learner.batches import micro_batches
from ovd_agent.learner.logprobs import token_logprobs
from ovd_agent.learner.rows import AUTHORS, divisors
from ovd_agent.losses import loss_components
from ovd_agent.losses.base import Tokens
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_envs import Task, make_scenario


@dataclass(frozen=True)
class Options:
    """Train a student by verbal rejection sampling."""

    student: str = "smollm2"
    updates: int = 12
    tasks: int = 16
    """Tasks an update."""
    samples: int = 2
    """Trajectories a task."""
    threshold: float = 7.0
    """θ: a trajectory whose mean score is below it is replaced by a demonstration."""
    learning_rate: float = 1e-4
    minibatches: int = 4
    """Optimiser steps an update."""
    held_out: int = 100
    """Held-out tasks, played greedily before and after."""
    world_seed: int = 2
    max_length: int = 448
    seed: int = 0


def main(options: Options) -> None:
    # 1. The environment: questions over a generated encyclopedia, scored by a teacher with rules.
    world = {"world_seed": options.world_seed}
    scenario, tasks = make_scenario("ovd/WebQA-v0", split="train", **world)
    _, unseen = make_scenario("ovd/WebQA-v0", split="test", count=options.held_out, **world)

    # 2. The student: a causal language model, and a policy that samples from it.
    model, tokenizer = load_model(options.student)
    policy = TorchPolicy(model, tokenizer, slots=64, max_length=options.max_length)
    rollout = Rollout(scenario, policy, tokenizer, 64, options.max_length, max_new_tokens=38)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    print(f"before: EM {exact_match(rollout, unseen[: options.held_out]):.3f}")

    for update in range(options.updates):
        rng = random.Random(f"{options.seed} {update}")
        drawn = rng.sample(list(tasks), min(options.tasks, len(tasks)))

        # 3. The student plays each task several times; the teacher scores every step as it comes.
        policy.seed(rng.getrandbits(31))
        played = rollout.play([task for task in drawn for _ in range(options.samples)])

        # 4. Reject: S(y), the mean of the expected scores, is compared with θ.
        kept = [each for each in played if score(each) >= options.threshold]
        rejected = [each for each in played if score(each) < options.threshold]

        # 5. Replace: the teacher plays the same tasks, in the same environment.
        shown = demonstrations(rollout, [each.episode.task for each in rejected])

        # 6. Every token says what it contributes: kept samples are reinforced by their outcome,
        #    demonstrations are imitated.
        rows = [reinforced(each) for each in kept] + [imitated(each) for each in shown]

        # 7. Update, and let the policy forget what it computed with older weights.
        rng.shuffle(rows)
        parts = min(options.minibatches, len(rows))
        for part in range(parts):
            done = (update + part / parts) / options.updates
            warmed = min(1.0, (update * options.minibatches + part + 1) / 4)
            rate = options.learning_rate * max(0.1, 1 - done) * warmed
            step(model, optimizer, rows[part::parts], rate)
        policy.publish(model, update + 1)
        print(
            f"update {update + 1}: accepted {len(kept) / len(played):.2f},"
            f" {len(shown)} demonstrations, reward {np.mean([each.reward for each in played]):.2f}"
        )
    print(f"after: EM {exact_match(rollout, unseen[: options.held_out]):.3f}")


def exact_match(rollout: Rollout, tasks: Sequence[Task]) -> float:
    """Of greedy play."""
    played = rollout.play(tasks, temperature=0.0)
    return float(np.mean([each.episode.exact_match or 0.0 for each in played]))


def score(trajectory: Trajectory) -> float:
    """S(y)."""
    scores = trajectory.episode.expected_scores
    return sum(scores) / len(scores)


def demonstrations(rollout: Rollout, tasks: Sequence[Task]) -> list[Trajectory]:
    """The teacher's play of each task, in the student's tokens; none where its answer is wrong."""
    episodes = rollout.scenario.demonstrate(tasks)
    tokenized = [rollout.tokenized(episode) for episode in episodes if episode.exact_match]
    return [each for each in tokenized if len(each.ids) <= rollout.max_length]


def reinforced(trajectory: Trajectory) -> TrainingRow:
    """PPO's clipped policy gradient on what the student wrote; the outcome is the advantage."""
    row = TrainingRow.blank(trajectory.ids, "student", authors(trajectory))
    row.stream("behaviour")[:] = trajectory.logprobs
    row.stream("pg")[row.wrote("student")] = 1.0
    row.stream("advantage")[row.wrote("student")] = trajectory.reward
    return row


def imitated(trajectory: Trajectory) -> TrainingRow:
    """Cross-entropy on what the teacher wrote."""
    row = TrainingRow.blank(trajectory.ids, "demonstration", authors(trajectory))
    row.stream("ce")[row.wrote("teacher")] = 1.0
    return row


def authors(trajectory: Trajectory) -> NDArray[np.int8]:
    """Who wrote each token."""
    found = np.empty(len(trajectory.ids), dtype=np.int8)
    for segment in trajectory.segments:
        found[segment.start : segment.end] = AUTHORS.index(segment.author)
    return found


def step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, rows: list[TrainingRow], rate: float
) -> None:
    """One optimiser step: the loss is divided once, by all weighted tokens of the step."""
    losses = loss_components()
    model.zero_grad(set_to_none=True)
    for batch in micro_batches(rows, losses, divisors(rows, losses, "tokens"), 2048):
        logprobs = token_logprobs(model, batch).logprobs
        tokens = Tokens(logprobs, batch.streams)
        active = [each for each in losses if batch.streams[each.weight].any()]
        torch.stack([each.loss(tokens) for each in active]).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
