"""The fast path against a reference that reads one row, and one token, at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovd_agent.learner import logprobs
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses import loss_components
from ovd_agent.losses.policy_gradient import PolicyGradient
from tests.agent.tiny import VOCABULARY, tiny_model

CONFIG = LearnerConfig()
POLICY = PolicyGradient(clip_low=0.2, clip_high=0.3)
TEMPERATURE = 0.7
LOSSES = loss_components()
KINDS = ("pg", "teacher", "ce", "kl", "shaped", "mixture")


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


@pytest.fixture(scope="module")
def reference():
    return tiny_model(seed=1).eval()


def naive_logprobs(model, ids, temperature):
    """log p(ids[t] | ids[:t]) for t = 1.., one forward pass per token."""
    logprobs = [torch.zeros((), dtype=torch.float64)]
    for t in range(1, len(ids)):
        logits = model(torch.tensor([ids[:t]])).logits[0, -1] / temperature
        logprobs.append(logits[ids[t]] - logits.exp().sum().log())
    return logprobs


def naive_backward(model, reference, rows, config, policy=POLICY):
    """Fill the gradients by the definition in TrainingRow; return loss and branches taken."""
    model.zero_grad()
    sums, tokens, branches = [], [], set()
    for row in rows:
        loss = torch.zeros((), dtype=torch.float64)
        logprobs = naive_logprobs(model, row.ids, TEMPERATURE)
        with torch.no_grad():
            targets = naive_logprobs(reference, row.ids, TEMPERATURE)
        trained_here = 0
        for t, logp in enumerate(logprobs):
            pg, ce, kl = (
                float(row.stream("pg")[t]),
                float(row.stream("ce")[t]),
                float(row.stream("kl")[t]),
            )
            advantage, behaviour = (
                float(row.stream("advantage")[t]),
                float(row.stream("behaviour")[t]),
            )
            shaped = float(row.stream("shaped")[t])
            trained_here += bool(pg or ce or kl or shaped)
            if pg:
                before = float(logp.detach()) if math.isnan(behaviour) else behaviour
                ratio = torch.exp(logp - before)
                truncated = float(ratio.detach()) > policy.max_ratio
                if truncated:  # a constant weight on the gradient of log p
                    ratio = policy.max_ratio * (1 + logp - logp.detach())
                low, high = 1 - policy.clip_low, 1 + policy.clip_high
                if advantage > 0 and ratio > high:
                    objective, branch = high * advantage, "above"
                elif advantage < 0 and ratio < low:
                    objective, branch = low * advantage, "below"
                else:
                    outside = not low <= ratio <= high
                    objective, branch = ratio * advantage, "outside" if outside else "inside"
                    branch = "truncated" if truncated else branch
                branches.add(branch)
                loss = loss - pg * objective
            if ce:
                loss = loss - ce * logp
            if shaped:
                loss = loss - shaped * logp.exp() / (logp.exp() + 0.1)
            if kl:
                difference = targets[t] - logp
                before = float(logp.detach()) if math.isnan(behaviour) else behaviour
                ratio = torch.exp(logp - before)
                if float(ratio.detach()) > 10:
                    ratio = 10 * (1 + logp - logp.detach())
                loss = loss + kl * ratio * (difference.exp() - difference - 1)
        sums.append(loss)
        tokens.append(trained_here)
    used = sum(count > 0 for count in tokens)
    match config.loss_per:
        case "tokens":
            loss = sum(sums) / sum(tokens)
        case "rows":
            loss = sum(sums) / used
        case "row_means":
            loss = sum(each / max(1, count) for each, count in zip(sums, tokens)) / used
    loss.backward()
    return float(loss.detach()), branches


def make_row(rng, model, kind, length, config=CONFIG):
    """A random row with a prompt, two written spans, and environment tokens between them."""
    row = TrainingRow.blank(rng.integers(0, VOCABULARY, length).tolist(), "student")
    written = np.ones(length, dtype=bool)
    written[:2] = False
    written[length // 2 : length // 2 + 2] = False
    weight = rng.uniform(0.2, 2.0, length)
    row.stream("advantage")[:] = rng.normal(0, 1, length)
    if kind in ("pg", "teacher", "mixture"):
        row.stream("pg")[:] = weight * written
    if kind in ("pg", "mixture"):
        with torch.no_grad():
            now = np.array([float(p) for p in naive_logprobs(model, row.ids, TEMPERATURE)])
        row.stream("behaviour")[:] = now + rng.normal(0, 0.4, length)
    if kind in ("ce", "mixture"):
        row.stream("ce")[:] = weight[::-1] * written * (rng.random(length) < 0.5)
    if kind in ("shaped", "mixture"):
        row.stream("shaped")[:] = weight * written * (rng.random(length) < 0.5)
    if kind in ("kl", "mixture"):
        row.stream("kl")[:] = 0.1 * weight * written * (rng.random(length) < 0.7)
    return row


def make_rows(model, kinds=KINDS, seed=0, config=CONFIG):
    rng = np.random.default_rng(seed)
    return [make_row(rng, model, kind, int(rng.integers(8, 15)), config) for kind in kinds * 2]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def learner_of(model, config=CONFIG, policy=POLICY):
    losses = loss_components([policy])
    return Learner(model, config, losses=losses, temperature=TEMPERATURE)


def measured(reference, rows):
    """The same rows, with what the reference says of them."""
    rows = [replace(row, streams=dict(row.streams)) for row in rows]
    if reference is not None:
        FrozenModel("start", reference, TEMPERATURE).measure(rows, Wants("kl"))
    return rows


def fast(model, reference, rows, config=CONFIG, policy=POLICY):
    learner, rows = learner_of(model, config, policy), measured(reference, rows)
    metrics = learner.backward(rows)
    found = gradients(model)
    model.zero_grad()
    return metrics, found


def assert_same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < tolerance, f"{name}: relative error {error}"


@pytest.mark.parametrize(
    "kinds", [("pg",), ("teacher",), ("ce",), ("kl",), ("shaped",), ("mixture",), KINDS]
)
@pytest.mark.parametrize("loss_per", ["tokens", "rows", "row_means"])
def test_loss_and_every_gradient_equal_the_naive_ones(model, reference, kinds, loss_per):
    config = replace(CONFIG, loss_per=loss_per)
    rows = make_rows(model, kinds)
    rows.append(TrainingRow.blank([1, 2, 3], "student"))  # a rejected row counts nowhere
    loss, branches = naive_backward(model, reference, rows, config)
    expected = gradients(model)
    metrics, found = fast(model, reference, rows, config)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-10)
    assert_same(found, expected)
    if "pg" in kinds:
        assert branches == {"above", "below", "outside", "inside"}
        assert 0 < metrics["clip_fraction"] < 1
    if kinds == ("teacher",):
        assert metrics["ratio_min"] == metrics["ratio_max"] == 1


def test_a_ratio_beyond_the_largest_counts_as_that(model, reference):
    policy = replace(POLICY, max_ratio=1.5)
    rows = make_rows(model, ("pg", "mixture"))
    rows[0].stream("behaviour")[3] = -900.0  # whose ratio is infinite
    rows[0].stream("advantage")[3] = -1.0
    loss, branches = naive_backward(model, reference, rows, CONFIG, policy)
    expected = gradients(model)
    metrics, found = fast(model, reference, rows, CONFIG, policy)
    assert "truncated" in branches
    assert metrics["loss"] == pytest.approx(loss, rel=1e-10)
    assert_same(found, expected)


def test_metrics_equal_hand_computed_ones(model, reference):
    rows = make_rows(model, ("pg", "teacher", "ce"))
    metrics, _ = fast(model, reference, rows)
    logs, clipped, entropies = [], [], []
    with torch.no_grad():
        for row in rows:
            logprobs = naive_logprobs(model, row.ids, TEMPERATURE)
            for t in range(1, len(row.ids)):
                if row.stream("pg")[t] and not math.isnan(row.stream("behaviour")[t]):
                    log = float(logprobs[t]) - float(row.stream("behaviour")[t])
                    logs.append(log)
                    positive = row.stream("advantage")[t] > 0
                    clipped.append(math.exp(log) > 1.3 if positive else math.exp(log) < 0.8)
                if row.trained(LOSSES)[t]:
                    logits = model(torch.tensor([row.ids[:t]])).logits[0, -1] / TEMPERATURE
                    p = logits.softmax(-1)
                    entropies.append(-float((p * p.log()).sum()))
    ratios = [math.exp(log) for log in logs]
    expected = {
        "clip_fraction": np.mean(clipped),
        "ratio_min": min(ratios),
        "ratio_mean": np.mean(ratios),
        "ratio_max": max(ratios),
        "gap": np.mean(np.abs(logs)),
        "kl_behaviour": np.mean([math.exp(log) - 1 - log for log in logs]),
        "entropy": np.mean(entropies),
        "trained_tokens": sum(int(row.trained(LOSSES).sum()) for row in rows),
        "loss": metrics["pg_loss"] + metrics["ce_loss"] + metrics["kl_loss"],
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"token_budget": 16},
        {"token_budget": 1},
        {"logit_budget": 1},
        {"logit_budget": 5 * VOCABULARY},
    ],
    ids=str,
)
def test_memory_bounds_do_not_change_the_gradient(model, reference, change):
    rows = make_rows(model)
    metrics, expected = fast(model, reference, rows, replace(CONFIG, token_budget=10_000))
    changed, found = fast(model, reference, rows, replace(CONFIG, **change))
    assert_same(found, expected)
    assert changed == pytest.approx(metrics, rel=1e-9)


@pytest.mark.parametrize("cached", [1, 3 * VOCABULARY, 2**19])
def test_rows_of_logits_taken_together_do_not_change_the_gradient(
    model, reference, monkeypatch, cached: int
):
    rows = make_rows(model)
    loss, _ = naive_backward(model, reference, rows, CONFIG)
    expected = gradients(model)
    monkeypatch.setattr(logprobs, "CACHED", cached)
    metrics, found = fast(model, reference, rows)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-10)
    assert_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_logits_give_wide_log_probabilities(dtype: torch.dtype):
    torch.manual_seed(0)
    logits = torch.randn(50, 30).to(dtype).requires_grad_()
    targets = torch.randint(30, (50,))
    outside = torch.randn(50)
    identity = torch.nn.Identity()
    found, entropies = logprobs._from_hidden(logits, targets[:, None], identity, 0.7)
    (gradient,) = torch.autograd.grad(found[:, 0], logits, outside)
    every = (logits.float() / 0.7).log_softmax(-1)
    expected = every.gather(1, targets[:, None])[:, 0]
    (theirs,) = torch.autograd.grad(expected, logits, outside)
    assert found.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(gradient, theirs)
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1))
    assert not entropies.requires_grad


def test_order_of_rows_does_not_change_the_gradient(model, reference):
    rows = make_rows(model)
    order = np.random.default_rng(3).permutation(len(rows))
    config = replace(CONFIG, token_budget=40)
    _, expected = fast(model, reference, rows, config)
    _, found = fast(model, reference, [rows[i] for i in order], config)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)


@pytest.mark.parametrize("kinds", [("pg", "ce"), KINDS])
def test_a_shared_prefix_changes_no_gradient(model, reference, kinds):
    rng = np.random.default_rng(1)
    start = rng.integers(0, VOCABULARY, 20).tolist()
    rows = make_rows(model, kinds)
    for row in rows:
        size = len(start)
        row.ids = start + row.ids
        for name, stream in row.streams.items():
            fill = np.full(size, np.nan if name == "behaviour" else 0.0, np.float32)
            row.streams[name] = np.concatenate([fill, stream])
        row.authors = np.full(len(row.ids), row.authors[0])
    for budget in (10_000, 120):
        config = replace(CONFIG, token_budget=budget)
        metrics, expected = fast(model, reference, rows, replace(config, share_prefix=False))
        shared, found = fast(model, reference, rows, config)
        assert_same(found, expected)
        assert shared["computed_tokens"] < 0.75 * metrics["computed_tokens"]
        assert shared["loss"] == pytest.approx(metrics["loss"], rel=1e-10)


@pytest.mark.parametrize("loss_per", ["tokens", "rows"])
def test_a_row_with_copies_counts_as_often_as_it_says(model, reference, loss_per):
    config = replace(CONFIG, loss_per=loss_per)
    rows = make_rows(model)
    metrics, expected = fast(model, reference, [*rows, rows[0], rows[0]], config)
    merged, found = fast(model, reference, [replace(rows[0], copies=3), *rows[1:]], config)
    # The weights are float32, and so is three times a weight.
    assert_same(found, expected, 1e-7)
    assert merged["loss"] == pytest.approx(metrics["loss"], rel=1e-7)


def test_finite_differences(model, reference):
    # Far from the ends of the clip, where the loss has kinks; and with the behaviour known, since
    # otherwise the ratio is 1 by definition, with a gradient.
    rows = measured(reference, make_rows(model, ("pg", "ce", "shaped", "mixture")))
    learner = learner_of(model, policy=PolicyGradient(clip_low=1.0, clip_high=math.inf))
    learner.backward(rows)
    slopes = gradients(model)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        direction = {
            name: torch.randn(g.shape, generator=generator, dtype=g.dtype)
            for name, g in slopes.items()
        }
        losses = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter += step * direction[name]
            losses.append(learner.backward(rows)["loss"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += 1e-6 * direction[name]
        expected = sum(float((slopes[name] * direction[name]).sum()) for name in slopes)
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-6)
    model.zero_grad()


def test_an_environment_token_is_read_but_never_a_target(model, reference):
    rng = np.random.default_rng(0)
    row = make_row(rng, model, "mixture", 12)
    _, expected = fast(model, reference, [row])
    environment = 6
    assert (
        row.stream("pg")[environment]
        == row.stream("ce")[environment]
        == row.stream("kl")[environment]
        == 0
    )
    row.stream("behaviour")[environment] = 1e30
    _, found = fast(model, reference, [row])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    row.ids[environment] = (row.ids[environment] + 1) % VOCABULARY
    _, changed = fast(model, reference, [row])
    assert not torch.equal(changed["lm_head.weight"], expected["lm_head.weight"])


def test_tokens_after_the_last_trained_one_are_not_read(model, reference):
    row = make_row(np.random.default_rng(0), model, "ce", 12)
    row.stream("ce")[-3:] = 0
    _, expected = fast(model, reference, [row])
    row.ids[-3:] = [0, 0, 0]
    _, found = fast(model, reference, [row])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_zero_advantage_gives_a_gradient_of_exactly_zero(model):
    rows = make_rows(model, ("pg", "teacher"))
    for row in rows:
        row.stream("advantage")[:] = 0
    metrics, found = fast(model, None, rows)
    assert metrics["loss"] == 0
    assert not found, "tokens without an advantage were computed"
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_masked_infinity_does_not_reach_the_gradient(model, reference):
    row = make_row(np.random.default_rng(0), model, "ce", 12)
    row.stream("behaviour")[:] = -np.inf  # read only under pg
    metrics, found = fast(model, reference, [row])
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(gradient.isfinite().all() for gradient in found.values())
