"""A model as judge: trained on the digit alone, the same score in any batch, and it can learn."""

import pytest
import torch

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.losses import loss_components
from ovd_agent.models import tiny_model
from ovd_agent.scorer import ModelScorer, digit_ids, prompt_ids, scoring_rows
from ovd_envs.calibration.calibrate import known_steps
from ovd_envs.errors import OptionError
from ovd_envs.registry import make_scenario

LOSSES = loss_components()


@pytest.fixture(scope="module")
def steps():
    scenario, tasks = make_scenario("ovd/Math-v0", count=60, split="test")
    return known_steps(scenario, tasks, per_kind=6)


@pytest.fixture
def judge():
    model, tokenizer = tiny_model()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content[-400:] }}\n{% endfor %}"
    return model, tokenizer


def test_only_the_digit_is_trained(judge, steps):
    _, tokenizer = judge
    rows = scoring_rows(tokenizer, steps, shows_answer=True)
    for row, step in zip(rows, steps, strict=True):
        row.check(LOSSES)
        assert tokenizer.decode(row.ids[-1:]) == str(step.reference)
        assert row.ids[:-1] == prompt_ids(tokenizer, step.request, shows_answer=True)
        assert row.trained(LOSSES).tolist() == [False] * (len(row.ids) - 1) + [True]


def test_scores_are_those_of_one_prompt_at_a_time(judge, steps):
    model, tokenizer = judge
    digits = digit_ids(tokenizer, 10)
    scores = ModelScorer(model, tokenizer, batch_size=4).score([step.request for step in steps])
    for step, score in zip(steps, scores, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, step.request, shows_answer=True)])
        with torch.no_grad():
            p = model(input_ids=ids).logits[0, -1, digits].softmax(-1)
        assert score.level == int(p.argmax())
        assert score.expected == pytest.approx(float((p * torch.arange(10)).sum()), abs=1e-4)


def test_it_learns_the_scores_it_is_shown(judge, steps):
    model, tokenizer = judge
    distinct = list({step.reference: step for step in steps}.values())[:4]
    rows = scoring_rows(tokenizer, distinct, shows_answer=True)
    learner = Learner(model, LearnerConfig(learning_rate=3e-3, minibatches=1, warmup_steps=0))
    for _ in range(80):
        learner.update(rows)
    scores = ModelScorer(model, tokenizer).score([step.request for step in distinct])
    assert len(distinct) == 4
    assert [score.level for score in scores] == [step.reference for step in distinct]


def test_what_cannot_judge_is_one_sentence(judge, steps):
    _, tokenizer = judge
    tokenizer.chat_template = None
    with pytest.raises(OptionError, match="needs a chat template"):
        scoring_rows(tokenizer, steps, shows_answer=True)
