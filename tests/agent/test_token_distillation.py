"""Distillation by token probabilities: what the estimates expect, and equality with TRL."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ovd_agent.algorithms.sod import SOD
from ovd_agent.cli import main
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.logprobs import BUFFERS
from ovd_agent.learner.overlap import compared
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses import loss_components
from ovd_agent.losses.base import Tokens
from ovd_agent.losses.distillation import TEACHER_LOGPROBS, BaselinedDistillation, Distillation
from ovd_agent.losses.divergence import Divergence, bucketed, kl
from ovd_agent.runs.logs import read_log
from tests.agent.tiny import VOCABULARY, tiny_model

SIZE = 6


@pytest.fixture
def logits():
    torch.manual_seed(0)
    student = (2 * torch.randn(SIZE, dtype=torch.float64)).requires_grad_()
    return student, 2 * torch.randn(SIZE, dtype=torch.float64)


def gradients(component, logits) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient for each token that may be sampled [V, V], and the tokens' probabilities."""
    student, teacher = logits
    found = []
    for token in range(SIZE):
        own, theirs = student.log_softmax(0), teacher.log_softmax(0)
        one = torch.ones(1, dtype=torch.float64)
        tokens = Tokens(
            own[token][None],
            {
                "distill": one,
                "behaviour": own[token].detach()[None],
                TEACHER_LOGPROBS: theirs[token][None],
            },
            distribution=own[None],
            targets=torch.tensor([token]),
            references={"teacher": theirs[None]},
        )
        [gradient] = torch.autograd.grad(component.loss(tokens), student)
        found.append(gradient)
    return torch.stack(found), student.detach().softmax(0)


def moments(component, logits):
    """Mean and total variance of the gradient, by enumeration."""
    every, shares = gradients(component, logits)
    mean = (shares[:, None] * every).sum(0)
    return mean, float((shares[:, None] * (every - mean) ** 2).sum())


def test_both_estimates_expect_the_gradient_of_the_reverse_kl(logits):
    student, teacher = logits
    exact = kl(student.log_softmax(0)[None], teacher.log_softmax(0)[None]).sum()
    [expected] = torch.autograd.grad(exact, student)
    for component in (Distillation(), *(BaselinedDistillation(k=k) for k in (0, 2, 3))):
        mean, _ = moments(component, logits)
        torch.testing.assert_close(mean, expected)


def test_the_baseline_lowers_the_variance_where_the_vocabulary_is_large():
    """Not by a theorem: with six tokens it raises the variance in nearly half of the contexts, and
    with a thousand in none of these."""
    generator = torch.Generator().manual_seed(0)
    lower = {}
    for size in (6, 1000):
        ratios = []
        for _ in range(60):
            student = 2 * torch.randn(size, generator=generator, dtype=torch.float64)
            teacher = student + torch.randn(size, generator=generator, dtype=torch.float64)
            ratios.append(variance(student, teacher, baseline=True))
            ratios[-1] /= variance(student, teacher, baseline=False)
        lower[size] = sum(ratio < 1 for ratio in ratios) / len(ratios)
    assert lower[1000] == 1
    assert 0.3 < lower[6] < 0.9


def variance(student, teacher, *, baseline: bool) -> float:
    """Of -(A - b) ∇log p by the logits, in closed form: the norm of its expectation is the same."""
    shares, gap = student.softmax(0), teacher.log_softmax(0) - student.log_softmax(0)
    advantage = gap - (shares * gap).sum() if baseline else gap
    every = -advantage[:, None] * (torch.eye(len(shares)) - shares)
    mean = (shares[:, None] * every).sum(0)
    return float((shares[:, None] * (every - mean) ** 2).sum())


def test_a_teacher_that_agrees_teaches_nothing_without_noise(logits):
    student, _ = logits
    agreed = (student, student.detach().clone())
    for component in (Distillation(), BaselinedDistillation()):
        mean, spread = moments(component, agreed)
        assert float(mean.abs().max()) == pytest.approx(0, abs=1e-12)
        assert spread == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_divergence_is_that_of_trl(beta):
    pytest.importorskip("trl", reason='pip install -e ".[dev]"')
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(1)
    student, teacher = torch.randn(2, 7, SIZE, dtype=torch.float64)
    expected = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, reduction="sum"
    )
    found = Divergence(beta=beta).between(teacher.log_softmax(-1), student.log_softmax(-1)).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("of", ["student", "teacher"])
@pytest.mark.parametrize(
    ("kind", "beta"), [("jsd", 0.0), ("jsd", 0.5), ("jsd", 1.0), ("skewed", 0.1)]
)
def test_a_bucket_bounds_the_whole_divergence_from_below(kind, beta, of):
    torch.manual_seed(2)
    student, teacher = (3 * torch.randn(2, 40, 30, dtype=torch.float64)).log_softmax(-1)
    streams = {"divergence": torch.full((40,), 1 / 40, dtype=torch.float64)}
    tokens = Tokens(student[:, 0], streams, distribution=student, references={"teacher": teacher})
    values = [
        float(Divergence(kind, beta, k, of).loss(tokens)) for k in (1, 2, 4, 8, 16, 29, 30, 0)
    ]
    whole = values[-1]
    assert 0 <= values[0] < whole
    assert all(low <= high + 1e-12 for low, high in pairwise(values))
    assert values[-3] == pytest.approx(whole, rel=1e-9)


def test_a_bucket_holds_the_rest():
    chosen = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    found = bucketed(chosen, torch.tensor([[0, 2]])).exp()
    assert found.tolist()[0] == pytest.approx([0.5, 0.125, 0.375])


def rows_for(weight: str, count=4):
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in range(7, 7 + count):
        ids = torch.randint(VOCABULARY, (length,), generator=generator).tolist()
        row = TrainingRow.blank(ids, "student")
        row.stream(weight)[3:] = 1.0
        row.stream("behaviour")[3:] = -math.log(VOCABULARY)
        rows.append(row)
    return rows


@pytest.mark.parametrize("budget", [2**20, 3 * BUFFERS * VOCABULARY])
@pytest.mark.parametrize(
    "component",
    [
        BaselinedDistillation(0.9, 5.0),
        BaselinedDistillation(0.9, 5.0, k=3),
        Divergence(beta=0.5),
        Divergence(beta=1.0, k=4),
        Divergence("skewed", 0.1),
    ],
    ids=str,
)
def test_gradients_are_those_of_a_naive_loop(component, budget):
    """Row by row, with all logits of both models."""
    model, teacher, temperature = tiny_model().eval(), tiny_model(seed=1).eval(), 0.8
    rows = rows_for(component.weight)
    total = sum(int(row.has(component.weight).sum()) for row in rows)
    for row in rows:
        ids = torch.tensor([row.ids])
        own, theirs = (
            (m(ids).logits[0, :-1] / temperature).log_softmax(-1) for m in (model, teacher)
        )
        places = torch.arange(3, len(row.ids))
        tokens = Tokens(
            own[places - 1, ids[0, places]],
            {
                component.weight: torch.full((len(places),), 1 / total, dtype=torch.float64),
                "behaviour": torch.from_numpy(row.stream("behaviour")[3:]).double(),
            },
            distribution=own[places - 1],
            targets=ids[0, places],
            references={"teacher": theirs[places - 1].detach()},
        )
        component.loss(tokens).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    learner = Learner(
        model,
        LearnerConfig(logit_budget=budget),
        losses=loss_components([component]),
        temperature=temperature,
        references={"teacher": teacher},
    )
    learner.backward(rows)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-12)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_reference_that_nobody_names_is_an_error():
    learner = Learner(tiny_model(), LearnerConfig(), losses=loss_components())
    with pytest.raises(ValueError, match="reads the distribution of a reference 'teacher'"):
        learner.backward(rows_for("divergence"))


def test_a_student_comes_nearer_to_its_teacher():
    """On fixed contexts, by the whole divergence."""
    teacher, rows = tiny_model(seed=1), rows_for("divergence")
    model = tiny_model()
    config = LearnerConfig(learning_rate=3e-3, minibatches=1, warmup_steps=0, decay="none")
    learner = Learner(
        model, config, losses=loss_components([Divergence()]), references={"teacher": teacher}
    )
    losses = [learner.update(rows)["loss"] for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_sampled_token_is_measured_once(monkeypatch):
    """Single-sample distillation reads a stream that the teacher fills."""
    teacher, rows = tiny_model(seed=1), rows_for("distill")
    FrozenModel("teacher", teacher).measure(rows, Wants("distill"))
    metrics = Learner(tiny_model(), LearnerConfig(), losses=loss_components()).update(rows)
    assert metrics["teacher_kl"] != 0
    whole = rows_for("distill")
    FrozenModel("teacher", teacher).measure(whole, Wants("distill", whole=True))
    assert TEACHER_LOGPROBS not in whole[0].streams


def test_every_eighth_token_of_a_batch_is_compared():
    generator = torch.Generator().manual_seed(0)
    mine, theirs = torch.randn(2, 20, 40, generator=generator).log_softmax(-1)
    found = compared(mine, theirs, start=3)  # its first is number 3 of the batch
    known = ~found.isnan().any(1)
    assert known.nonzero()[:, 0].tolist() == [5, 13]
    for place in (5, 13):
        ids, others = ({*each[place].topk(16).indices.tolist()} for each in (mine, theirs))
        assert float(found[place, 0]) == pytest.approx(len(ids & others) / 16)
    torch.testing.assert_close(found[known, 1], kl(mine, theirs)[[5, 13]])


def test_the_log_says_how_far_teacher_and_student_agree():
    config, losses = LearnerConfig(minibatches=1), loss_components([Divergence()])

    def logged(teacher, weight="divergence"):
        learner = Learner(tiny_model(), config, losses=losses, references={"teacher": teacher})
        return learner.update(rows_for(weight))

    same = logged(tiny_model())
    assert same["teacher_overlap"] == 1
    assert same["teacher_kl"] == pytest.approx(0, abs=1e-9)
    other = logged(tiny_model(seed=1))
    assert 0 < other["teacher_overlap"] < 1
    assert other["teacher_kl"] > 0
    assert "teacher_overlap" not in logged(tiny_model(), "pg")


def test_a_turn_counts_by_its_divergence_against_the_first():
    """Gaps of 1, 2 and 0.5 nats in three turns of two tokens."""
    row = TrainingRow.blank(list(range(9)), "student")
    for turn, gap in enumerate((1.0, 2.0, 0.5)):
        where = slice(1 + 3 * turn, 3 + 3 * turn)  # with a token of the environment between them
        row.stream("distill")[where] = 1.0
        row.stream("behaviour")[where] = -1.0
        row.stream(TEACHER_LOGPROBS)[where] = -1.0 - gap
    SOD(delta=0.2).measured([row])
    expected = [0, 1, 1, 0, 0.5, 0.5, 0, 1.2, 1.2]
    assert row.stream("distill").tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["opd", "vopd", "opd_topk", "gkd", "sod"])
def test_a_run_learns_from_a_teacher_of_tokens(name, tmp_path, capsys):
    words = ["train", "--student", "tiny", "--algorithm", name, "--out", str(tmp_path / "run")]
    words += ["--updates", "1", "--tasks-per-update", "2", "--eval-count", "2"]
    assert main.main(words) == 2
    assert "algorithm.teacher_model is not given" in capsys.readouterr().err
    assert main.main([*words, "--algorithm.teacher-model", "tiny"]) == 0
    [line] = read_log(tmp_path / "run/log.jsonl")
    assert line["trained_tokens"] > 0
    assert line["demonstrations"] == 0
