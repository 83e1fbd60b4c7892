"""Losses and gradients equal TRL's on the same rows."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovd_agent.algorithms.advantages import group_advantages
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses import loss_components
from ovd_agent.losses.cispo_gradient import CISPOGradient
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.losses.sequence_gradient import SequenceGradient
from tests.agent.tiny import VOCABULARY, tiny_model

pytest.importorskip("trl", reason='pip install -e ".[dev]"')
from trl import GRPOTrainer

PROMPT, BETA = 4, 0.04
LENGTHS = (3, 7, 5, 7)
REWARDS = [1.0, 0.0, 0.25, 0.0]


def rows_and_batch(model, reference):
    """Four samples of one prompt, as rows of ours and as a batch of TRL's."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, VOCABULARY, PROMPT).tolist()
    advantages = group_advantages(REWARDS)
    rows, longest = [], max(LENGTHS)
    ids = torch.zeros(len(LENGTHS), longest, dtype=torch.long)
    mask = torch.zeros(len(LENGTHS), longest)
    old, ref = torch.zeros(2, len(LENGTHS), longest, dtype=torch.float64)
    for place, length in enumerate(LENGTHS):
        written = rng.integers(0, VOCABULARY, length).tolist()
        whole = torch.tensor([prompt + written])
        with torch.no_grad():
            now, frozen = (
                m(whole)
                .logits[0, PROMPT - 1 : -1]
                .log_softmax(-1)
                .gather(1, whole[0, PROMPT:, None])
                for m in (model, reference)
            )
        behaviour = now[:, 0].numpy() + rng.normal(0, 0.3, length)
        row = TrainingRow.blank(prompt + written, "student")
        for name, values in (
            ("pg", 1.0), ("kl", BETA), ("advantage", advantages[place]), ("behaviour", behaviour)
        ):  # fmt: skip
            row.stream(name)[PROMPT:] = values
        rows.append(row)
        ids[place, :length], mask[place, :length] = torch.tensor(written), 1
        # In the precision of our streams.
        old[place, :length] = torch.from_numpy(row.stream("behaviour")[PROMPT:]).double()
        ref[place, :length] = frozen[:, 0]
    weights = torch.tensor([row.stream("advantage")[-1] for row in rows], dtype=torch.float64)
    batch = {
        "prompt_ids": torch.tensor([prompt] * len(rows)),
        "prompt_mask": torch.ones(len(rows), PROMPT, dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": weights,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    return rows, batch


class Trl(GRPOTrainer):
    """The loss of a GRPOTrainer without the rest of one."""

    def __init__(self, model, loss_type, level="token", beta=BETA):
        self.model, self.loss_type, self.beta = model, loss_type, beta
        self.args = SimpleNamespace(
            use_bias_correction_kl=True, delta=None, steps_per_generation=1, report_to=[]
        )
        self.epsilon_low, self.epsilon_high = 0.2, 0.3
        self.importance_sampling_level = level
        self.top_entropy_quantile, self.off_policy_mask_threshold = 1.0, None
        self.aux_loss_enabled, self.use_vllm, self._entropy_bonus_enabled = False, False, False
        self.vllm_importance_sampling_correction = False
        self.current_gradient_accumulation_steps = 1
        self.max_completion_length = max(LENGTHS)
        self.accelerator = SimpleNamespace(
            num_processes=1, gather=lambda values: values, reduce=lambda values, reduction: values
        )
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, model, ids, mask, keep, **_):
        every = model(ids, attention_mask=mask).logits[:, -keep - 1 : -1].log_softmax(-1)
        logps = every.gather(2, ids[:, -keep:, None])[:, :, 0]
        return logps, -(every.exp() * every).sum(-1), None


@pytest.mark.parametrize(
    ("loss_type", "loss_per", "scale"),
    [
        ("grpo", "row_means", 1.0),
        ("bnpo", "tokens", 1.0),
        ("dapo", "tokens", 1.0),
        ("dr_grpo", "rows", 1 / max(LENGTHS)),  # which divides by the longest completion, too
    ],
)
def test_loss_and_gradients_are_those_of_trl(loss_type, loss_per, scale):
    model, reference = tiny_model().eval(), tiny_model(seed=1).eval()
    rows, batch = rows_and_batch(model, reference)
    loss = Trl(model, loss_type)._compute_loss(model, batch)
    loss.backward()
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    FrozenModel("start", reference, 1.0).measure(rows, Wants("kl"))
    losses = loss_components([PolicyGradient(0.2, 0.3)])
    metrics = Learner(model, LearnerConfig(loss_per=loss_per), losses=losses).backward(rows)
    assert metrics["loss"] * scale == pytest.approx(float(loss.detach()), rel=1e-6)
    assert_gradients(model, theirs, scale)


def assert_gradients(model, theirs, scale=1.0):
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad * scale, theirs[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("token_budget", ["auto", 1])
@pytest.mark.parametrize(
    ("component", "loss_type", "level", "loss_per"),
    [
        (SequenceGradient(0.2, 0.3), "grpo", "sequence", "row_means"),
        (
            SequenceGradient(0.01, 0.01),
            "grpo",
            "sequence",
            "row_means",
        ),  # of which some are clipped
        (CISPOGradient(clip_high=0.3), "cispo", "token", "tokens"),
    ],
)
def test_other_ratios_are_those_of_trl(component, loss_type, level, loss_per, token_budget):
    """GSPO without a KL term, since TRL gives the KL a ratio of the sequence, too; CISPO."""
    model, reference = tiny_model().eval(), tiny_model(seed=1).eval()
    rows, batch = rows_and_batch(model, reference)
    for row in rows:
        del row.streams["kl"]
    trl = Trl(model, loss_type, level, beta=0.0)
    trl.epsilon_low, trl.epsilon_high = component.clip_low, component.clip_high
    if loss_type == "cispo":
        trl.epsilon_high = 1 + component.clip_high  # which is the bound itself there
    loss = trl._compute_loss(model, batch)
    loss.backward()
    theirs = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    config = LearnerConfig(loss_per=loss_per, token_budget=token_budget)
    metrics = Learner(model, config, losses=loss_components([component])).backward(rows)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert_gradients(model, theirs)
    assert 0 <= metrics["clip_fraction"] <= 1


def test_advantages_are_those_of_trl():
    """(r - mean) / (std + 1e-4), the std with n-1."""
    rewards = torch.tensor(REWARDS)
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    assert group_advantages(REWARDS) == pytest.approx(expected.tolist(), rel=1e-6)
