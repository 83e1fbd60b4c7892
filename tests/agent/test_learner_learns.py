"""A student must learn to copy a digit by clipped policy gradients, and only by true ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow
from tests.agent.tiny import tiny_model

DIGITS, LENGTH, PROMPTS, ROLLOUTS = 10, 1, 16, 8
COPY = DIGITS  # the token that ends the prompt


@torch.no_grad()
def sample(model, prompts, generator):
    """Completions of LENGTH tokens and their log-probabilities: [rows, LENGTH] each."""
    ids = prompts
    logprobs = []
    for _ in range(LENGTH):
        output = model(ids, logits_to_keep=1)
        distribution = output.logits[:, -1].log_softmax(-1)
        context = torch.multinomial(distribution.exp(), 1, generator=generator)
        logprobs.append(distribution.gather(-1, context))
        ids = torch.cat([ids, context], 1)
    return ids, torch.cat(logprobs, 1)


def train(steps, advantage_of, seed=0):
    """Mean reward of every step; the reward is the share of digits that were copied."""
    model = tiny_model(seed, torch.float32, hidden=64, layers=2, vocabulary=DIGITS + 1, scale=0.05)
    learner = Learner(model, LearnerConfig(learning_rate=3e-3, minibatches=2, warmup_steps=0))
    generator = torch.Generator().manual_seed(seed)
    rewards = []
    for _ in range(steps):
        digits = torch.randint(DIGITS, (PROMPTS, LENGTH), generator=generator)
        digits = digits.repeat_interleave(ROLLOUTS, 0)
        prompts = torch.cat([digits, torch.full((len(digits), 1), COPY)], 1)
        ids, logprobs = sample(model, prompts, generator)
        reward = (ids[:, -LENGTH:] == digits).float().mean(1).numpy()
        rewards.append(float(reward.mean()))
        groups = advantage_of(reward).reshape(PROMPTS, ROLLOUTS)
        advantage = groups - groups.mean(1, keepdims=True)
        advantage = (advantage / (groups.std(1, keepdims=True) + 1e-4)).ravel()
        rows = []
        for row_ids, row_logprobs, value in zip(ids.tolist(), logprobs.numpy(), advantage):
            row = TrainingRow.blank(row_ids, "student")
            row.stream("pg")[-LENGTH:] = 1
            row.stream("advantage")[-LENGTH:] = value
            row.stream("behaviour")[-LENGTH:] = row_logprobs
            rows.append(row)
        learner.update(rows)
    return rewards


def test_copying_is_learned():
    rewards = train(40, lambda reward: reward)
    assert np.mean(rewards[:3]) < 0.2
    assert np.mean(rewards[-5:]) > 0.75


def test_a_flipped_sign_unlearns():
    rewards = train(25, lambda reward: -reward)
    assert np.mean(rewards[-5:]) < 0.5 * np.mean(rewards[:3])


def test_shuffled_rewards_teach_nothing():
    rng = np.random.default_rng(0)
    rewards = train(40, lambda reward: rng.permutation(reward))
    assert np.mean(rewards[-5:]) == pytest.approx(1 / DIGITS, abs=0.06)
