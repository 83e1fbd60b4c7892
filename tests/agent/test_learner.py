"""What an update does to the weights, and what it refuses."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from ovd_agent.learner.learner import Learner, LearnerConfig, Progress
from ovd_agent.learner.logprobs import check_head
from ovd_agent.learner.rows import TrainingRow
from tests.agent.tiny import VOCABULARY, tiny_model


def rows_of(count=4, length=8, seed=0, stream="ce"):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        row = TrainingRow.blank(rng.integers(0, VOCABULARY, length).tolist(), "student")
        row.stream(stream)[2:] = 1
        row.stream("advantage")[2:] = rng.normal()
        rows.append(row)
    return rows


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


def test_an_update_lowers_the_loss_and_reports_every_metric():
    learner = Learner(tiny_model(), LearnerConfig(learning_rate=0.01, minibatches=1))
    rows = rows_of()
    first = learner.update(rows)
    assert learner.update(rows)["loss"] < first["loss"]
    assert learner.steps == 2
    assert set(first) == {
        *("loss", "pg_loss", "ce_loss", "kl_loss", "shaped_loss", "grad_norm", "optimizer_steps"),
        *("distill_loss", "divergence_loss", "teacher_kl"),
        *("clip_fraction", "ratio_min", "ratio_mean", "ratio_max", "kl_behaviour", "entropy"),
        *("trained_tokens", "computed_tokens", "gap"),
    }
    assert first["trained_tokens"] == 4 * 6
    assert first["computed_tokens"] == 4 * 7
    assert first["optimizer_steps"] == 1
    assert first["grad_norm"] > 0


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    config = LearnerConfig(learning_rate=1.0, warmup_steps=2)
    rates = [config.rate(step, step / 10) for step in range(12)]
    assert rates == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    steady = LearnerConfig(learning_rate=1.0, warmup_steps=2, decay="none")
    assert [steady.rate(step, 0.9) for step in (0, 1, 1000)] == [0.5, 1.0, 1.0]


def test_the_step_is_adamw_on_the_clipped_gradient_with_warmup():
    config = LearnerConfig(
        learning_rate=0.01,
        weight_decay=0.1,
        max_grad_norm=0.05,
        warmup_steps=2,
        minibatches=1,
    )
    model, twin = tiny_model(), tiny_model()
    learner, gradients = Learner(model, config), Learner(twin, config)
    optimizer = torch.optim.AdamW(twin.parameters(), betas=config.betas, weight_decay=0.1)
    for seed, rate in enumerate((0.005, 0.01, 0.01)):
        rows = rows_of(seed=seed)
        assert learner.update(rows)["grad_norm"] > 0.05
        gradients.backward(rows)
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in twin.parameters()))
        for parameter in twin.parameters():
            parameter.grad *= 0.05 / (norm + 1e-6)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        for found, expected in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([TrainingRow.blank([1, 2, 3], "student")], id="no weights"),
        pytest.param([TrainingRow.blank([], "student")], id="an empty row"),
        pytest.param("zero advantage", id="zero advantage"),
    ],
)
def test_a_step_without_signal_changes_nothing_despite_momentum_and_decay(rows):
    model = tiny_model()
    learner = Learner(model, LearnerConfig(weight_decay=0.1, minibatches=1))
    learner.update(rows_of())
    if rows == "zero advantage":
        rows = rows_of(stream="pg")
        for row in rows:
            row.stream("advantage")[:] = 0
    before = weights(model)
    metrics = learner.update(rows)
    assert metrics["optimizer_steps"] == 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert same(before, model.state_dict())
    assert learner.steps == 1


@pytest.mark.parametrize("poison", ["advantage", "weight"])
def test_a_loss_or_gradient_that_is_not_finite_is_one_error_and_no_change(poison):
    model = tiny_model(dtype=torch.float32)
    learner = Learner(model, LearnerConfig(minibatches=1))
    rows = rows_of(stream="pg")
    if poison == "advantage":
        rows[1].stream("advantage")[2:] = -3e38
    else:
        rows[1].stream("pg")[3] = rows[1].stream("advantage")[3] = 3e38
    before = weights(model)
    with pytest.raises(FloatingPointError, match="optimiser step 1 was not made: its loss"):
        learner.update(rows)
    assert same(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert learner.update(rows_of())["optimizer_steps"] == 1


def test_dropout_is_off_under_gradient_checkpointing_too():
    """transformers checkpoints in training mode only, where dropout would be on."""
    rows = rows_of()
    plain = Learner(tiny_model(), LearnerConfig())  # its attention dropout is 0.1
    saving = Learner(tiny_model(), LearnerConfig(gradient_checkpointing=True))
    expected = plain.backward(rows)["loss"]
    for _ in range(3):
        assert saving.backward(rows)["loss"] == pytest.approx(expected, rel=1e-12)
    for one, other in zip(plain.model.parameters(), saving.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_minibatches_are_as_many_steps_and_cover_the_rows_once():
    rows = rows_of(5, stream="pg")
    for row in rows:
        row.stream("behaviour")[:] = -3.0
    config = LearnerConfig(minibatches=2)
    learner, twin = Learner(tiny_model(), config), Learner(tiny_model(), config)
    metrics = learner.update(rows, seed=4)
    assert (learner.steps, metrics["optimizer_steps"]) == (2, 2)
    assert metrics["trained_tokens"] == 5 * 6
    twin.update(rows, seed=4)
    assert same(learner.model.state_dict(), twin.model.state_dict())
    other = Learner(tiny_model(), config)
    other.update(rows, seed=5)
    assert not same(learner.model.state_dict(), other.model.state_dict())


def test_frozen_parameters_stay():
    model = tiny_model()
    model.model.embed_tokens.requires_grad_(False)
    before = weights(model)
    Learner(model, LearnerConfig()).update(rows_of())
    after = model.state_dict()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def test_half_precision_models_get_float32_log_probabilities():
    learner = Learner(tiny_model(dtype=torch.bfloat16), LearnerConfig(learning_rate=0.01))
    rows = rows_of()
    assert learner.update(rows)["loss"] > learner.update(rows)["loss"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0: expected > 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan: expected > 0"),
        ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0): expected two numbers in [0, 1)"),
        ({"token_budget": 0}, "token_budget=0: expected at least 1"),
    ],
)
def test_a_bad_setting_is_named(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LearnerConfig(**change)


@pytest.mark.parametrize("seed", range(3))
def test_the_rate_falls_by_updates_whatever_steps_they_make(seed):
    """An update of fewer steps does not leave later ones a higher rate."""
    learner = Learner(tiny_model(), LearnerConfig(learning_rate=1.0, warmup_steps=0, minibatches=4))
    rates = []
    learner._optimizer.step = lambda: rates.append(learner._optimizer.param_groups[0]["lr"])
    counts = [1, 4, 2] if seed else [4, 4, 4]
    for update, count in enumerate(counts):
        learner.update(rows_of(count), progress=Progress(update / 3, (update + 1) / 3))
    expected = [
        max(0.1, 1 - (update + part / count) / 3)
        for update, count in enumerate(counts)
        for part in range(count)
    ]
    assert rates == pytest.approx(expected)


def test_bad_rows_are_named():
    learner = Learner(tiny_model(), LearnerConfig())
    good = rows_of(1)[0]
    outside = TrainingRow.blank([1, VOCABULARY], "student")
    with pytest.raises(ValueError, match=r"has an id outside 0\.\.31"):
        learner.update([good, outside])
    first = TrainingRow.blank([1, 2], "student")
    first.stream("ce")[0] = 1
    with pytest.raises(
        ValueError, match="its first token has no prediction and cannot be weighted"
    ):
        learner.update([good, first])
    with pytest.raises(ValueError, match="has a weight kl, but nobody measured logprobs_start"):
        learner.update(rows_of(1, stream="kl"))


def test_a_model_that_changes_its_logits_after_the_head_is_refused():
    class Capped(type(tiny_model())):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 5 * torch.tanh(output.logits / 5)
            return output

    model = tiny_model(scale=1.0).eval()
    check_head(model)
    model.__class__ = Capped
    with pytest.raises(ValueError, match="Capped changes its logits after the output head"):
        Learner(model, LearnerConfig())


def test_other_architectures():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    learner = Learner(GPT2LMHeadModel(config), LearnerConfig())
    rows = rows_of()
    assert learner.update(rows)["loss"] > learner.update(rows)["loss"]
    assert isinstance(learner.model.get_output_embeddings(), nn.Linear)


def test_no_rows_are_no_step():
    learner = Learner(tiny_model(), LearnerConfig())
    assert learner.update([])["optimizer_steps"] == 0


def test_figures_by_turn_are_those_of_the_turns_own_tokens():
    """Each is what a step reports whose other tokens are not weighted."""

    def rows(*turns):
        found = rows_of(count=3, length=10, stream="pg")
        for row in found:
            row.turns = np.array([-1, -1, 0, 0, 0, 1, 1, 1, 2, 2], dtype=np.int16)
            row.stream("behaviour")[2:] = -1.0
            row.stream("pg")[~np.isin(row.turns, turns)] = 0
        return found

    def figures(*turns):
        return Learner(tiny_model(), LearnerConfig(minibatches=1)).update(rows(*turns))

    whole, alone = figures(0, 1, 2), [figures(turn) for turn in range(3)]
    for turn, metrics in enumerate(alone):
        for name in ("entropy", "kl_behaviour", "clip_fraction"):
            assert whole[f"{name}_turn_{turn + 1}"] == pytest.approx(metrics[name])
        assert not any("_turn_" in name for name in metrics)
    tokens = [metrics["trained_tokens"] for metrics in alone]
    mean = np.average([whole[f"entropy_turn_{turn}"] for turn in (1, 2, 3)], weights=tokens)
    assert whole["entropy"] == pytest.approx(mean)


def test_a_step_may_lack_a_turn():
    rows = rows_of(count=2, length=8)
    rows[0].turns = np.array([-1, -1, 0, 0, 0, 0, 1, 1], dtype=np.int16)
    rows[1].turns = np.array([-1, -1, 0, 0, 0, 0, 0, 0], dtype=np.int16)
    found = Learner(tiny_model(), LearnerConfig(minibatches=2)).update(rows)
    assert math.isfinite(found["entropy_turn_2"])
