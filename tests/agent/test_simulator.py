"""A model that learns to write what an index finds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ovd_agent.cli.main import main
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.losses import loss_components
from ovd_agent.models import tiny_model
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.logs import read_log
from ovd_agent.runs.trainer import Trainer
from ovd_agent.simulator import (
    LocalSimulator,
    LocalWriter,
    measured,
    prompt_ids,
    sampled_pairs,
    writing_rows,
)
from ovd_envs.errors import OptionError
from ovd_envs.registry import make_scenario
from ovd_envs.search.base import PacedSearch, SearchRequest
from ovd_envs.search.simulated.engine import Noise
from retrieval_index.mentions import mentions

TEMPLATE = "{% for m in messages %}{{ m.content[-150:] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def pairs():
    scenario, tasks = make_scenario("ovd/WebQA-v0", passages=200, count=12)
    return sampled_pairs(scenario.search, tasks[:12], count=1, words=40)


@pytest.fixture
def model():
    model, tokenizer = tiny_model()
    tokenizer.chat_template = TEMPLATE
    return model, tokenizer


def test_useful_pairs_say_what_is_asked_and_noisy_ones_do_not(pairs):
    kinds = [pair.request.useful for pair in pairs]
    assert sum(kinds) >= 10
    assert kinds.count(False) >= 10
    for pair in pairs:
        assert mentions(pair.text, [pair.wanted]) == pair.request.useful
        assert 1 <= len(pair.passages) <= pair.request.count
    with pytest.raises(OptionError, match="no task has a chain of hops"):
        sampled_pairs(None, [], count=1, words=30)


def test_only_the_passages_are_trained(model, pairs):
    _, tokenizer = model
    for row, pair in zip(writing_rows(tokenizer, pairs), pairs, strict=True):
        row.check(loss_components())
        trained = [i for i, t in zip(row.ids, row.trained(loss_components())) if t]
        assert tokenizer.decode(trained, skip_special_tokens=True) == pair.text


def test_it_learns_to_write_what_it_is_shown(model, pairs):
    student, tokenizer = model
    # A byte is a token here, so that a word has many.
    pairs = [replace(pairs[0], request=replace(pairs[0].request, words=90))]
    rows = writing_rows(tokenizer, pairs)
    writer = LocalWriter(student, tokenizer, temperature=0.0)
    before = measured(writer, pairs)
    learner = Learner(student, LearnerConfig(learning_rate=3e-3, minibatches=1, warmup_steps=0))
    for _ in range(110):
        learner.update(rows)
    writer = LocalWriter(student.eval(), tokenizer, temperature=0.0)
    after = measured(writer, pairs)
    assert (before.form, before.useful) == (0, 0)
    assert (after.form, after.useful) == (1, 1)
    [[(title, text)]] = writer.write([pairs[0].request])
    assert f"{title}: {text}" in pairs[0].text


def test_what_is_written_depends_on_the_requests_and_not_on_earlier_ones(pairs, model):
    student, tokenizer = model
    writer = LocalWriter(student, tokenizer, temperature=1.0)
    requests = [replace(pair.request, words=2) for pair in pairs[:4]]
    first = writer._texts(requests, 0)
    assert writer._texts(requests[::-1], 0) != first
    assert writer._texts(requests, 0) == first


def test_a_query_that_leaves_no_room_is_not_cut_and_fails_alone(pairs, model, caplog):
    """A prompt that is cut has lost the query, which stands at its end."""
    writer = LocalWriter(*model, max_length=400)
    short, long = pairs[0].request, replace(pairs[0].request, query="who " * 500)
    seen = []
    writer._policy.submit = lambda key, ids, sampling: seen.append((key, ids))
    assert writer._texts([long, replace(short, words=2), long], 0) == ["", "", ""]
    assert seen == [(1, prompt_ids(writer.tokenizer, replace(short, words=2)))]
    assert "do not fit into 400" in caplog.text


@pytest.mark.parametrize("control", ["none", "shuffled", "other"])
def test_the_command_trains_saves_and_its_model_plays_the_engine(tmp_path, control, model):
    student, tokenizer = model
    tokenizer.chat_template = TEMPLATE
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    out = tmp_path / "out"
    command = ["train-simulator", "--model", str(tmp_path / "student"), "--out", str(out)]
    command += ["--env.passages", "100", "--tasks", "4", "--held-out-tasks", "1", "--epochs", "1"]
    command += ["--words", "5", "--control", control]
    command += ["--judges", "2"] if control == "none" else ["--lora.rank", "2"]
    assert main(command) == 0
    record = json.loads((out / "simulator.json").read_text("utf-8"))
    assert set(record["before"]) == {"form", "useful", "noisy", "judged"}
    assert bool(record["after"]["judged"]) == (control == "none")
    engine = LocalSimulator(str(out / "model"), words=5, noise=Noise(0.0, 0.8, 1.0))
    assert isinstance(engine, PacedSearch)
    assert engine.pace(0.5) == 0.4
    scenario, tasks = make_scenario("ovd/WebQA-v0", passages=100, search=engine, count=1)
    request = SearchRequest("x", scenario.begin(tasks[:1])[0])
    assert engine.search([request], 1) == [None]  # by a random student
    assert engine.written.record() == {"queries": 1, "noisy": 0, "failed": 1}


def test_a_run_logs_what_the_engine_wrote_and_its_report_draws_it(tmp_path, model):
    student, tokenizer = model
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    config = TrainConfig(
        student=str(tmp_path / "student"),
        env={"name": "ovd/WebQA-v0", "passages": 100, "count": 20},
        search={"name": "simulated", "noise": {"start": 0.2, "end": 1.0, "base": 1.0}},
        algorithm="sft",
        updates=2,
        tasks_per_update=2,
        eval_count=1,
        rollout=RolloutConfig(max_new_tokens=4, slots=4, max_length=900),
        out=tmp_path / "run",
    )
    Trainer(config).run()
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["search_noise"] for line in lines] == pytest.approx([0.2, 0.6])
    assert all(line["teacher"]["search"]["queries"] >= 2 for line in lines)
    assert "Against noisy search results" in (tmp_path / "run" / "report.html").read_text("utf-8")
