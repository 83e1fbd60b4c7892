"""What rows and losses mean in expectation, by enumeration of everything that may be sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.losses.base import Tokens
from ovd_agent.losses.kl import KL, REFERENCE_LOGPROBS
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from tests.agent.tiny import VOCABULARY, tiny_model

TASK = Task("t", "q", ("a",))
PROMPT = [1, 2, 3]
DEMONSTRATION = [5, 6]


def trajectory(ids: list[int], author: Any, level: int, reward: float) -> Trajectory:
    score = VerbalScore(level, float(level), "", "test")
    turn = Turn("x", "answer", "x", score=score, reward=reward)
    result = Trajectory(Episode(TASK, "p", turns=[turn], terminated=True, end_reason="answered"))
    result.append("prompt", PROMPT, -1)
    result.append(author, ids, 0, [0.0] * len(ids) if author == "student" else None)
    return result


def test_expected_gradient_of_the_mixture():
    """E_student[1[S >= θ] · reward · ∇log π] + (1 - α) · ∇log π(demonstration), exactly."""
    model = tiny_model()
    learner = Learner(model, LearnerConfig(loss_per="rows"))
    algorithm = OVD(samples=1, threshold=7.0)
    context: Any = Context(0, 1, 10, None)
    rng = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 10, (VOCABULARY,), generator=rng).tolist()
    rewards = torch.rand(VOCABULARY, generator=rng, dtype=torch.float64).tolist()
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    probabilities = logprobs.exp()

    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for token in range(VOCABULARY):
        sample = trajectory([token], "student", levels[token], rewards[token])
        sample.logprobs[-1] = float(logprobs[token])
        group = Group(TASK, [sample], [trajectory(DEMONSTRATION, "teacher", 9, 1.0)])
        learner.backward(algorithm.rows(group, context))
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[name] += probabilities[token] * parameter.grad

    model.zero_grad()
    log_pi = model(torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    accepted = torch.tensor(levels) >= 7
    value = (probabilities * accepted * torch.tensor(rewards) * log_pi).sum()
    alpha = float(probabilities[accepted].sum())
    logits = model(torch.tensor([PROMPT + DEMONSTRATION])).logits[0].log_softmax(-1)
    shown = logits[2, DEMONSTRATION[0]] + logits[3, DEMONSTRATION[1]]
    (-value - (1 - alpha) * shown).backward()
    assert 0.1 < alpha < 0.9
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sampled_by", ["policy", "another"])
def test_value_and_gradient_of_the_kl_are_those_of_the_divergence_it_names(sampled_by):
    """KL(policy || reference), whoever sampled the tokens."""
    rng = torch.Generator().manual_seed(0)
    policy, reference, other = torch.randn(3, 7, generator=rng, dtype=torch.float64)
    policy.requires_grad_()
    logprobs, reference = policy.log_softmax(-1), reference.log_softmax(-1)
    behaviour = logprobs.detach() if sampled_by == "policy" else other.log_softmax(-1)
    streams = {
        "kl": behaviour.exp(),  # each token as often as it is sampled
        REFERENCE_LOGPROBS: reference,
        "behaviour": behaviour,
    }
    estimate = KL().loss(Tokens(logprobs, streams))
    [gradient] = torch.autograd.grad(estimate, policy, retain_graph=True)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    [expected] = torch.autograd.grad(exact, policy)
    assert float(estimate.detach()) == pytest.approx(float(exact.detach()), abs=1e-9)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
