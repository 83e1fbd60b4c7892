"""PPO in one file, in the manner of CleanRL, on our vector environment and without our trainer.

    python examples/ppo_in_one_file.py --student runs/math/best --iterations 20
    python examples/ppo_in_one_file.py --student tiny --iterations 2 --num-envs 4

An episode is one sequence of tokens: prompt, what the student wrote, what the environment said. The
student's tokens are the actions, a linear head on the last hidden states is the critic, and the
reward of each turn falls on its last token. From a student that never answers, `--reward mixed`
learns a little from the teacher's scores; start from one that imitates (`--algorithm sft`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent import load_model
from ovd_agent.models import student_path


@dataclass(frozen=True)
class Options:
    """Train a student by token-level PPO."""

    student: str = "smollm2"
    env: str = "ovd_envs:ovd/Math-v0"
    reward: Literal["outcome", "verbal", "mixed"] = "mixed"
    iterations: int = 20
    num_envs: int = 32
    max_new_tokens: int = 24
    max_length: int = 400
    """Longer episodes are cut off; they count as they stand."""
    epochs: int = 2
    minibatches: int = 4
    learning_rate: float = 1e-5
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.1
    seed: int = 0


@dataclass
class Sequence:
    """An episode as tokens. The lists run over `ids`; `rewards` lie on the last token of a turn."""

    ids: list[int]
    written: list[bool] = field(default_factory=list[bool])
    rewards: list[float] = field(default_factory=list[float])
    alive: bool = True

    def append(self, ids: list[int], *, written: bool, reward: float = 0.0) -> None:
        self.ids += ids
        self.written += [written] * len(ids)
        self.rewards += [0.0] * (len(ids) - 1) + [reward] if ids else []


class Agent(nn.Module):
    """The student, and a value of each position."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.critic = nn.Linear(model.config.hidden_size, 1)
        nn.init.zeros_(self.critic.weight)
        nn.init.zeros_(self.critic.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each next token and value before it: [rows, length - 1] each."""
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        logprobs = out.logits[:, :-1].float().log_softmax(-1)
        chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
        return chosen, self.critic(out.hidden_states[-1][:, :-1].float())[..., 0]


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    envs = gymnasium.make_vec(
        options.env,
        num_envs=options.num_envs,
        reward=options.reward,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    model, tokenizer = load_model(student_path(options.student))
    agent = Agent(model)
    optimizer = torch.optim.AdamW(agent.parameters(), options.learning_rate, weight_decay=0.0)
    for iteration in range(options.iterations):
        sequences, matches = play(envs, model, tokenizer, options, options.seed + iteration)
        figures = update(agent, optimizer, sequences, options)
        reward = np.mean([sum(each.rewards) for each in sequences])
        print(
            f"iteration {iteration + 1}: reward {reward:.3f}, exact match {np.mean(matches):.3f},"
            f" policy loss {figures[0]:+.4f}, value loss {figures[1]:.4f}"
        )


def play(
    envs: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, o: Options, seed: int
) -> tuple[list[Sequence], list[float]]:
    """One episode in each place, all of them a turn at a time; a place that is done rests."""
    observations, _ = envs.reset(seed=seed)
    sequences = [Sequence([]) for _ in observations]
    for sequence, text in zip(sequences, observations, strict=True):
        sequence.append(prompt_ids(tokenizer, text), written=False)
    matches = [0.0] * len(sequences)
    while running := [place for place, each in enumerate(sequences) if each.alive]:
        sampled = sample(model, tokenizer, [sequences[place].ids for place in running], o)
        actions: list[str | None] = [None] * len(sequences)
        for place, ids in zip(running, sampled, strict=True):
            actions[place] = str(tokenizer.decode(ids, skip_special_tokens=False))
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        for place, ids in zip(running, sampled, strict=True):
            sequence = sequences[place]
            sequence.append(ids, written=True, reward=float(rewards[place]))
            sequence.append(encode(tokenizer, observations[place]), written=False)
            full = len(sequence.ids) + o.max_new_tokens > o.max_length
            sequence.alive = not (terminated[place] or truncated[place] or full)
            if terminated[place]:
                matches[place] = float(infos["exact_match"][place])
    return sequences, matches


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: list[list[int]],
    o: Options,
) -> list[list[int]]:
    """The next turn of each context: up to the end of a tag, or `max_new_tokens`."""
    longest = max(map(len, contexts))
    pad: Any = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in contexts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in contexts])
    generate: Any = model.generate
    found = generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=o.max_new_tokens,
        stop_strings=["</think>", "</answer>", "</search>"],
        tokenizer=tokenizer,
        pad_token_id=pad,
    )[:, longest:]
    return [[token for token in row if token != pad] or [pad] for row in found.tolist()]


def update(
    agent: Agent, optimizer: torch.optim.Optimizer, sequences: list[Sequence], o: Options
) -> tuple[float, float]:
    """PPO's epochs over the episodes; returns the mean losses."""
    ids, mask, written, rewards = padded(sequences)
    with torch.no_grad():
        old, values = agent(ids, mask)
        advantages, returns = estimate(rewards[:, 1:], values, written[:, 1:], o)
        acted = advantages[written[:, 1:]]
        advantages = (advantages - acted.mean()) / (acted.std() + 1e-8)
    losses: list[tuple[float, float]] = []
    for _ in range(o.epochs):
        for rows in torch.randperm(len(ids)).chunk(o.minibatches):
            new, value = agent(ids[rows], mask[rows])
            where = written[rows, 1:]
            ratio = (new - old[rows])[where].exp()
            advantage = advantages[rows][where]
            clipped = ratio.clamp(1 - o.clip, 1 + o.clip)
            policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
            value_loss = ((value - returns[rows])[where] ** 2).mean()
            optimizer.zero_grad()
            (policy_loss + o.value_weight * value_loss).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
            optimizer.step()
            losses.append((policy_loss.item(), value_loss.item()))
    policy, value = np.mean(losses, axis=0)
    return float(policy), float(value)


def padded(sequences: list[Sequence]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, attention mask, which tokens the student wrote, and rewards: [rows, length] each."""
    longest = max(len(each.ids) for each in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, rewards = torch.zeros_like(ids), torch.zeros(len(sequences), longest)
    written = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, each in enumerate(sequences):
        length = len(each.ids)
        ids[row, :length] = torch.tensor(each.ids)
        mask[row, :length] = 1
        written[row, :length] = torch.tensor(each.written)
        rewards[row, :length] = torch.tensor(each.rewards)
    return ids, mask, written, rewards


def estimate(rewards: Tensor, values: Tensor, written: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the student's tokens; what the environment said between
    two of them takes no time."""
    advantages = torch.zeros_like(values)
    for row in range(len(values)):
        following, carried = 0.0, 0.0
        for place in reversed(cast("list[int]", written[row].nonzero()[:, 0].tolist())):
            delta = float(rewards[row, place]) + o.gamma * following - float(values[row, place])
            carried = delta + o.gamma * o.gae_lambda * carried
            advantages[row, place] = carried
            following = float(values[row, place])
    return advantages, advantages + values


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    if not tokenizer.chat_template:
        return encode(tokenizer, text)
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode(tokenizer, str(rendered))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
