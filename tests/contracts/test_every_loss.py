"""What every component of the loss keeps to; and components that read more than the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.logprobs import BUFFERS
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses import LOSSES, loss_components
from ovd_agent.losses.base import LossComponent, Tokens
from ovd_agent.losses.policy_gradient import PolicyGradient
from tests.agent.tiny import VOCABULARY, tiny_model

K = 3


@dataclass(frozen=True)
class OfCandidates(LossComponent):
    """Cross-entropy to a distribution over K given ids."""

    name = "toy_candidates"
    weight = "toy_candidates"
    candidates: ClassVar[str | None] = "toy_ids"

    def loss(self, tokens: Tokens) -> Tensor:
        assert tokens.candidates is not None
        assert tokens.distribution is None
        return -(tokens.stream(self.weight)[:, None] * tokens.candidates / K).sum()


@dataclass(frozen=True)
class OfDistribution(LossComponent):
    """The negative entropy of the whole distribution."""

    name = "toy_distribution"
    weight = "toy_distribution"
    reads_distribution: ClassVar[bool] = True

    def loss(self, tokens: Tokens) -> Tensor:
        every = tokens.distribution
        assert every is not None
        assert every.shape == (len(tokens.logprobs), VOCABULARY)
        return (tokens.stream(self.weight) * (every.exp() * every).sum(-1)).sum()


TOYS = (OfCandidates(), OfDistribution())
ALL = loss_components(TOYS)


@pytest.fixture(params=ALL, ids=lambda loss: loss.name)
def loss(request):
    return request.param


def rows_for(loss, count=5, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(8, 14))
        row = TrainingRow.blank(rng.integers(0, VOCABULARY, length).tolist(), "student")
        row.stream(loss.weight)[2:] = rng.uniform(0.1, 1, length - 2) * (
            rng.random(length - 2) < 0.8
        )
        for name in loss.streams:
            row.stream(name)[2:] = rng.normal(-2, 1, length - 2)
        if loss.candidates:
            row.streams[loss.candidates] = rng.integers(0, VOCABULARY, (length, K))
        rows.append(row)
    return rows


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model, rows, losses=ALL, **config):
    frozen = {"teacher": tiny_model(seed=9)}
    learner = Learner(model, LearnerConfig(**config), losses=losses, references=frozen)
    return learner.backward(rows), gradients(model)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_every_component_of_the_table_is_here():
    assert {each.name for each in ALL} == {*LOSSES.names(), *(toy.name for toy in TOYS)}
    names = [name for each in ALL for name in (each.weight, *each.required)]
    assert len(names) == len(set(names)), "a weight belongs to one component"


def test_memory_bounds_and_order_change_nothing(loss):
    model = tiny_model()
    rows = rows_for(loss)
    metrics, expected = backward(model, rows)
    assert metrics[f"{loss.name}_loss"] == pytest.approx(metrics["loss"], rel=1e-12)
    assert metrics["loss"] != 0
    for change in ({"token_budget": 1}, {"token_budget": 40}, {"logit_budget": 2 * VOCABULARY}):
        again, found = backward(model, rows[::-1], **change)
        assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-9)
        assert_same(found, expected)


def test_it_adds_to_the_others(loss):
    """A step with rows of two components has the sum of their gradients, by one denominator."""
    model, other = tiny_model(), next(each for each in ALL if each is not loss)
    mine, theirs = rows_for(loss), rows_for(other, seed=1)
    counts = [sum(int(row.weighted(ALL).sum()) for row in rows) for rows in (mine, theirs)]
    both, together = backward(model, [*mine, *theirs])
    parts = [backward(model, rows) for rows in (mine, theirs)]
    shares = [count / sum(counts) for count in counts]
    expected = sum(share * metrics["loss"] for share, (metrics, _) in zip(shares, parts))
    assert both["loss"] == pytest.approx(expected, rel=1e-9)
    assert_same(
        together,
        {
            name: sum(share * found[name] for share, (_, found) in zip(shares, parts))
            for name in together
        },
    )


def test_a_weight_of_zero_is_no_loss_and_no_computation(loss):
    rows = rows_for(loss)
    for row in rows:
        row.stream(loss.weight)[:] = 0
    metrics, found = backward(tiny_model(), rows)
    assert metrics["loss"] == 0
    assert metrics["computed_tokens"] == 0
    assert not found


def test_its_gradient_is_that_of_its_value(loss):
    """Central differences along random directions, far from the kinks of a clip."""
    rows = rows_for(loss)
    if isinstance(loss, PolicyGradient):
        for row in rows:
            row.stream("behaviour")[:] = np.nan
    model = tiny_model()
    _, slopes = backward(model, rows)
    if isinstance(loss, PolicyGradient):  # constant where the ratio is 1 by definition
        return
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = {
            name: torch.randn(g.shape, generator=generator, dtype=g.dtype)
            for name, g in slopes.items()
        }
        values = []
        for move in (1e-6, -2e-6):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter += move * direction[name]
            values.append(backward(model, rows)[0]["loss"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += 1e-6 * direction[name]
        slope = sum(float((slopes[name] * direction[name]).sum()) for name in slopes)
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_candidates_equal_the_naive_ones():
    model, loss = tiny_model().eval(), OfCandidates()
    rows = rows_for(loss)
    metrics, found = backward(model, rows)
    model.zero_grad()
    total, tokens = 0.0, 0
    for row in rows:
        logprobs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for t in np.flatnonzero(row.stream(loss.weight)):
            ids = torch.from_numpy(row.streams["toy_ids"][t])
            total = total - float(row.stream(loss.weight)[t]) * logprobs[t - 1, ids].sum() / K
            tokens += 1
    (total / tokens).backward()
    assert metrics["loss"] == pytest.approx(float(total.detach()) / tokens, rel=1e-9)
    assert_same(found, gradients(model))


def test_whole_distributions_equal_the_naive_ones_and_are_read_in_parts():
    model, loss = tiny_model().eval(), OfDistribution()
    rows, sizes = rows_for(loss), []

    class Watched(OfDistribution):
        def loss(self, tokens):
            sizes.append(len(tokens.logprobs))
            return super().loss(tokens)

    metrics, found = backward(model, rows, (Watched(),), logit_budget=4 * BUFFERS * VOCABULARY)
    assert max(sizes) == 4
    model.zero_grad()
    total, count = 0.0, 0
    for row in rows:
        every = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for t in np.flatnonzero(row.stream(loss.weight)):
            weight = float(row.stream(loss.weight)[t])
            total = total + weight * (every[t - 1].exp() * every[t - 1]).sum()
            count += 1
    (total / count).backward()
    assert metrics["loss"] == pytest.approx(float(total.detach()) / count, rel=1e-9)
    assert_same(found, gradients(model))


def test_a_reference_fills_its_stream_where_it_is_wanted_and_nowhere_else():
    reference = tiny_model(3)
    rows = rows_for(loss_components()[0], count=6)
    wanted = rows[::2]
    for row in wanted:
        row.stream("kl")[4:7] = 0.1
    FrozenModel("start", reference, temperature=0.8, token_budget=30).measure(rows, Wants("kl"))
    for row in rows:
        assert ("logprobs_start" in row.streams) == (row in wanted)
    for row in wanted:
        with torch.no_grad():
            every = (reference(torch.tensor([row.ids])).logits[0] / 0.8).log_softmax(-1)
        expected = np.zeros(len(row.ids))
        for t in range(4, 7):
            expected[t] = float(every[t - 1, row.ids[t]])
        np.testing.assert_allclose(row.streams["logprobs_start"], expected, rtol=1e-9)
