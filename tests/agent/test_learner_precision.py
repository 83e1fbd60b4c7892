"""Weights in bfloat16 beside float32 masters: small steps and gradients of many passes add up, and
a run resumes bit for bit."""

from dataclasses import replace

import pytest
import torch

from ovd_agent.learner.checkpoint import load_checkpoint, save_checkpoint
from ovd_agent.learner.learner import Learner, LearnerConfig
from tests.agent.test_learner import rows_of, weights
from tests.agent.tiny import tiny_model

SMALL = LearnerConfig(learning_rate=2e-5, warmup_steps=0, decay="none", minibatches=1)


def rounded():
    return tiny_model(0, torch.float32).to(torch.bfloat16)


def distance(ours, theirs):
    return sum(float(((ours[name] - theirs[name]) ** 2).sum()) for name in ours) ** 0.5


def floats(named):
    return {name: weight.detach().float().clone() for name, weight in named}


def test_steps_too_small_for_bfloat16_add_up():
    model, exact, naive = rounded(), rounded().float(), rounded()
    begun = floats(exact.named_parameters())
    learner, reference = Learner(model, SMALL), Learner(exact, SMALL)
    optimizer = torch.optim.AdamW(naive.parameters(), 2e-5, SMALL.betas, weight_decay=0.0)
    for step in range(40):
        rows = rows_of(seed=step % 2)
        learner.update(rows)
        reference.backward(rows)
        for rough, fine in zip(naive.parameters(), exact.parameters(), strict=True):
            rough.grad = fine.grad.to(torch.bfloat16)
        optimizer.step()
        reference.update(rows)
    expected = floats(exact.named_parameters())
    moved = distance(expected, begun)
    assert distance(floats(learner._masters.items()), expected) < 0.2 * moved
    assert distance(floats(naive.named_parameters()), expected) > 0.8 * moved
    for name, weight in model.named_parameters():
        assert torch.equal(weight, learner._masters[name].to(torch.bfloat16))


def test_gradients_of_many_passes_are_summed_in_float32():
    rows = rows_of(count=64, length=12)
    found = {}
    for budget in (11, 10_000):  # a row in a pass, or all of them
        learner = Learner(rounded(), replace(SMALL, token_budget=budget))
        learner.backward(rows)
        assert all(each.grad is None for each in learner.model.parameters())
        assert all(each.grad.dtype == torch.float32 for each in learner._masters.values())
        found[budget] = {name: each.grad for name, each in learner._masters.items()}
    exact = Learner(rounded().float(), SMALL)
    exact.backward(rows)
    expected = {name: each.grad for name, each in exact._masters.items()}
    size = distance(expected, {name: torch.zeros_like(each) for name, each in expected.items()})
    for gradients in found.values():
        assert distance(gradients, expected) < 0.02 * size


def test_a_checkpoint_brings_the_masters_back(tmp_path):
    learner = Learner(rounded(), SMALL)
    for seed in range(3):
        learner.update(rows_of(seed=seed))
    save_checkpoint(tmp_path, learner.model, Nameless(), learner, {"update": 3})
    resumed = Learner(rounded(), SMALL)
    load_checkpoint(tmp_path, resumed.model, resumed)
    for each in (learner, resumed):
        each.update(rows_of(seed=7))
    assert weights(learner.model).keys() == weights(resumed.model).keys()
    for name, master in learner._masters.items():
        assert torch.equal(master, resumed._masters[name])
        assert torch.equal(learner._trained[name], resumed._trained[name])


def test_a_checkpoint_of_other_precision_is_refused(tmp_path):
    learner = Learner(rounded(), SMALL)
    learner.update(rows_of())
    save_checkpoint(tmp_path, learner.model, Nameless(), learner, {})
    model = rounded().float()
    other = Learner(model, SMALL)
    with pytest.raises(ValueError, match=r"another learner\.weights"):
        load_checkpoint(tmp_path, model, other)


class Nameless:
    """A tokenizer that writes nothing."""

    def save_pretrained(self, folder):
        pass
