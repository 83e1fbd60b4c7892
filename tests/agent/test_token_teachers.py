"""Teachers of tokens: told more than the student, behind a server, weighed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.gkd import GKD
from ovd_agent.algorithms.opd import OPD
from ovd_agent.algorithms.opd_topk import OPDTopK
from ovd_agent.algorithms.opsd import OPSD
from ovd_agent.algorithms.sod import SOD
from ovd_agent.algorithms.vopd import VOPD
from ovd_agent.cli.main import main
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import AUTHORS, BEHAVIOUR, TrainingRow
from ovd_agent.learner.served_reference import ServedModel
from ovd_agent.losses import loss_components
from ovd_agent.models import tiny_model as student_of
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.runs.logs import read_log
from ovd_envs.calibration.players import oracle, play
from ovd_envs.errors import OptionError
from tests.agent.tiny import VOCABULARY, tiny_model

WANTS = Wants("distill", "x")
PROMPT = 3


def row(seed: int = 0, length: int = 9) -> TrainingRow:
    rng = np.random.default_rng(seed)
    made = TrainingRow.blank(rng.integers(0, VOCABULARY, length).tolist(), "student")
    made.authors[:PROMPT] = AUTHORS.index("prompt")
    made.stream("distill")[PROMPT:] = 1.0
    made.stream(BEHAVIOUR)[PROMPT:] = -3.0
    return made


def logprobs(model, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every id but the first: [n - 1, V] and [n - 1]."""
    every = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return every, every.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_a_reference_that_is_told_more_reads_another_prompt():
    model, mine = tiny_model(seed=1).eval(), row()
    mine.told = [5, 6, 7, 8, 9, 1]
    assert FrozenModel("teacher", model).measure([mine], Wants("distill", told=True)) == 0
    with torch.no_grad():
        _, expected = logprobs(model, [*mine.told, *mine.ids[PROMPT:]])
    found = mine.streams["logprobs_teacher"]
    assert found[PROMPT:] == pytest.approx(expected[len(mine.told) - 1 :].numpy())
    assert not found[:PROMPT].any()


def naive_gradient(options: OPD, models, mine: TrainingRow) -> list[torch.Tensor]:
    """By the definition, token by token."""
    every, own = logprobs(models["student"], mine.ids)
    with torch.no_grad():
        theirs, taught = logprobs(models["teacher"], mine.ids)
        _, begun = logprobs(models["start"], mine.ids)
    loss, counted = torch.zeros((), dtype=torch.float64), 0
    for place in range(PROMPT - 1, len(mine.ids) - 1):
        now = own[place].detach()
        advantage = options.reward_scale * (taught - begun)[place] - (now - begun[place])
        entropy = -(theirs[place].exp() * theirs[place]).sum()
        divergence = (theirs[place].exp() * (theirs[place] - every[place])).sum()
        punished = options.asymmetric and taught[place] <= now
        if punished or 0 < options.entropy_above <= entropy:
            loss, counted = loss + divergence, counted + 1
        if options.asymmetric:
            advantage = advantage.clamp(min=0)
        ratio = (own[place] - float(mine.stream(BEHAVIOUR)[place + 1])).exp()
        loss = loss - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    assert counted or not (options.asymmetric or options.entropy_above)
    loss = loss / (len(mine.ids) - PROMPT)
    return list(torch.autograd.grad(loss, list(models["student"].parameters())))


@pytest.mark.parametrize(
    "options",
    [
        OPD("x"),
        OPD("x", reward_scale=1.5),
        OPD("x", asymmetric=True),
        OPD("x", entropy_above=2.0),
        OPD("x", asymmetric=True, reward_scale=0.5),
    ],
    ids=["plain", "scaled", "asymmetric", "entropy", "both"],
)
def test_options_of_opd_are_their_formulas(options):
    names = ("student", "teacher", "start")
    models = {name: tiny_model(seed=seed).eval() for seed, name in enumerate(names)}
    mine = row(length=20)
    with torch.no_grad():  # sampled by something near the student
        now = logprobs(models["student"], mine.ids)[1][PROMPT - 1 :]
        mine.stream(BEHAVIOUR)[PROMPT:] = now + torch.linspace(-0.3, 0.3, len(now))
    if options.asymmetric or options.entropy_above:
        mine.stream("divergence")[:] = mine.stream("distill")
    for name, wants in options.needs.references.items():
        FrozenModel(name, models[name]).measure([mine], wants)
    losses = loss_components(options.losses)
    Learner(models["student"], LearnerConfig(), losses=losses, references=models).backward([mine])
    expected = naive_gradient(options, models, mine)
    for parameter, gradient in zip(models["student"].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


def test_the_overlap_of_a_row_is_the_mean_of_what_the_likeliest_tokens_share():
    student, teacher = (tiny_model(seed=seed).eval() for seed in (0, 1))
    rows = [row(seed, length) for seed, length in enumerate((30, 12, 21))]
    wants = OPD("x", closest=0.5).needs.references["teacher"]
    for budget in (2**20, VOCABULARY):
        reference = FrozenModel("teacher", teacher, logit_budget=budget, student=student)
        for one in rows:  # a row alone, so that every eighth of its tokens is looked at
            reference.measure([one], wants)
            places = range(PROMPT, len(one.ids), 8)
            with torch.no_grad():
                mine, theirs = (logprobs(each, one.ids)[0] for each in (student, teacher))
            shared = [
                len(
                    {*mine[t - 1].topk(16).indices.tolist()} & {*theirs[t - 1].topk(16)[1].tolist()}
                )
                for t in places
            ]
            assert one.overlap == pytest.approx(sum(shared) / len(shared) / 16)
    FrozenModel("teacher", student, student=student).measure(rows, wants)
    assert [one.overlap for one in rows] == [1, 1, 1]


@pytest.mark.parametrize("algorithm", [OPD, VOPD, GKD, OPDTopK, SOD])
def test_the_closest_tasks_are_learned_and_no_others(algorithm):
    made = algorithm("x", closest=0.5)
    names = [loss.weight for loss in made.losses]
    rows = [row(seed) for seed in range(6)]
    for one, group, overlap in zip(rows, "aabbcc", (0.9, 0.1, 0.6, 0.7, 0.2, 0.3), strict=True):
        one.group, one.overlap = group, overlap
        for name in names:
            one.stream(name)[PROMPT:] = 1.0
    made.measured(rows)
    left = [any(one.has(name).any() for name in names) for one in rows]
    assert left == [True, True, True, True, False, False]  # means 0.5, 0.65 and 0.25
    algorithm("x").measured(rows)
    assert [any(one.has(name).any() for name in names) for one in rows] == left


def test_opsd_tells_the_answer_or_shows_a_solution(webqa):
    scenario, tasks = webqa
    model, tokenizer = student_of()
    rollout = Rollout(scenario, None, tokenizer, max_length=4000)
    [shown] = play(scenario, [tasks[0]], oracle(scenario), 0)
    group = Group(tasks[0], [rollout.tokenized(shown)], [rollout.tokenized(shown)])
    context = Context(0, 1, 10, tokenizer)
    for tells, said in (("answer", tasks[0].answers[0]), ("demonstration", shown.turns[0].action)):
        algorithm = OPSD(tells=tells)
        [made] = algorithm.rows(group, context)
        text = tokenizer.decode(made.told)
        assert said.strip() in text
        assert shown.prompt.strip() in text
        assert algorithm.demonstrations(group.samples) == (tells == "demonstration")
        FrozenModel("teacher", model).measure([made], algorithm.needs.references["teacher"])
    assert OPSD().rows(Group(tasks[0], group.samples), context) == []


def test_a_served_teacher_says_what_the_model_says(serve, student, tokenizer):
    server = serve()
    rng = np.random.default_rng(0)
    rows = [row(seed, length) for seed, length in ((0, 9), (1, 12), (0, 9))]
    for each in rows:
        each.ids = rng.integers(0, 200, len(each.ids)).tolist()
    rows[2].ids = rows[0].ids
    reference = ServedModel("teacher", f"student@{server.url}/v1", tokenizer, concurrency=1)
    assert reference.measure(rows, WANTS) == 0
    found = [each.streams.pop("logprobs_teacher") for each in rows]
    FrozenModel("teacher", student).measure(rows, WANTS)
    for each, mine in zip(rows, found, strict=True):
        assert mine == pytest.approx(each.streams["logprobs_teacher"], abs=1e-5)
    assert len(server.prompts) == 2  # an equal row is not asked again


def test_faults_of_a_served_teacher_are_tried_again_and_counted(serve, tokenizer):
    server = serve()
    server.prompt_plan = lambda number: {0: "503", 2: "400"}.get(number)
    reference = ServedModel("teacher", f"student@{server.url}", tokenizer, concurrency=1)
    rows = [row(0), row(1), row(2)]
    assert reference.measure(rows, WANTS) == 1
    assert sum(not each.has("distill").any() for each in rows) == 1
    assert reference.faults == {"503": 1, "400": 1}
    for each in rows:
        each.check(loss_components(OPD("x").losses))


def test_a_teacher_that_cannot_be_asked_is_one_sentence(serve, tokenizer, monkeypatch):
    server = serve()
    with pytest.raises(OptionError, match="MODEL@http://HOST:PORT of a vLLM server"):
        ServedModel("teacher", "student@http://127.0.0.1:9", tokenizer)
    with pytest.raises(OptionError, match="which a server does not send"):
        OPD("m@http://127.0.0.1:9", asymmetric=True).check(10)
    with pytest.raises(OptionError, match=r"algorithm\.closest compares whole distributions"):
        OPD("m@http://127.0.0.1:9", closest=0.5).check(10)
    mine = student_of()[1]
    monkeypatch.setattr(mine, "encode", lambda *args, **options: [1, 2, 3])
    with pytest.raises(OptionError, match="has another tokenizer than the student"):
        ServedModel("teacher", f"student@{server.url}", mine)


SMALL = [
    *("train", "--student", "tiny", "--env", "ovd/Math-v0", "--tasks-per-update", "2"),
    *("--eval-count", "2", "--rollout.max-new-tokens", "8"),
]


def test_a_run_of_two_stages(tmp_path):
    command = [*SMALL, "--updates", "3", "--out", str(tmp_path), "--algorithm", "staged"]
    command += ["--algorithm.first-updates", "1"]
    command += ["--algorithm.then", '{"name": "opsd", "samples": 3, "tells": "answer"}']
    assert main(command) == 0
    log = read_log(tmp_path / "log.jsonl")
    assert [line["demonstrations"] for line in log] == [2, 0, 0]
    assert [line["student_tokens"] > 0 for line in log] == [False, True, True]
    assert log[0]["ce_loss"] > 0
    assert log[1]["ce_loss"] == 0
    assert log[1]["teacher_kl"] != 0


def test_a_run_with_a_served_teacher(tmp_path, serve):
    server = serve()
    command = [*SMALL, "--updates", "1", "--out", str(tmp_path), "--algorithm", "opd"]
    assert main([*command, "--algorithm.teacher-model", f"student@{server.url}"]) == 0
    [line] = read_log(tmp_path / "log.jsonl")
    assert line["rows_unmeasured"] == 0
    assert server.prompts
    # The teacher is the student, in float32; the learner may multiply in bfloat16.
    assert line["teacher_kl"] == pytest.approx(0, abs=1e-3)


def test_a_run_learns_from_the_closest_half_of_its_tasks(tmp_path):
    lengths = []
    for closest in ("1", "0.5"):
        command = [*SMALL, "--updates", "1", "--out", str(tmp_path / closest), "--algorithm"]
        command += ["gkd", "--algorithm.teacher-model", "tiny", "--algorithm.closest", closest]
        assert main(command) == 0
        [line] = read_log(tmp_path / closest / "log.jsonl")
        assert line["teacher_overlap"] == 1
        lengths.append((line["student_tokens"], line["trained_tokens"]))
    (played, learned), (again, half) = lengths
    assert played == again
    assert 0 < half < learned


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["staged", "--algorithm.then", "{"], "not a JSON object"),
        (["staged", "--algorithm.first-updates", "0"], "first_updates=0: expected at least 1"),
        (
            ["staged", "--algorithm.first", '{"name": "grpo", "policy": {"clip_low": 0.1}}'],
            "give the loss 'pg' different options",
        ),
        (
            ["vopd", "--algorithm.teacher-model", "m@http://127.0.0.1:9"],
            "reads whole distributions",
        ),
        (["opd", "--algorithm.reward-scale", "0"], "reward_scale=0.0: expected more than 0"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, capsys, options, said):
    command = [*SMALL, "--updates", "2", "--out", str(tmp_path / "run"), "--algorithm", *options]
    assert main(command) == 2
    assert said in capsys.readouterr().err
