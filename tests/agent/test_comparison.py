"""The statistics of a comparison against known cases, and the command from plan to report."""

import csv
import json
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovd_agent.algorithms.ovd import OVD
from ovd_agent.cli import compare, main
from ovd_agent.runs.comparison import Difference, Run, acceptance, difference, grades, read_arm
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.trainer import Trainer
from ovd_envs.errors import OptionError


def run_command(options):
    """The command with these options; its exit status."""
    arguments = ["--plan", str(options.plan), "--out", str(options.out)]
    arguments += ["--only-read"] if options.only_read else []
    arguments += ["--baseline", options.baseline] if options.baseline else []
    return main.run("ovd_agent.cli.compare", arguments)


def run(em, seed=0, evaluations=(0.0,)):
    return Run(seed, {"a": em, "b": em}, (*evaluations, em), {}, ())


def test_equal_arms_differ_by_nothing():
    arm = np.random.default_rng(0).integers(0, 2, (4, 50)).astype(float)
    assert difference(arm, arm) == Difference(0.0, 0.0, 0.0, 4)
    assert difference(arm, arm).verdict == "tie"


def test_a_constant_difference_has_no_spread():
    found = difference(np.ones((3, 40)), np.zeros((3, 40)))
    assert (found.mean, found.low, found.high, found.verdict) == (1.0, 1.0, 1.0, "higher")
    assert difference(np.zeros((3, 40)), np.ones((3, 40))).verdict == "lower"


def test_the_interval_is_that_of_the_normal_case():
    """Many questions and independent seeds: the spread is that of the mean of the seeds."""
    rng = np.random.default_rng(1)
    effects = rng.normal(0.1, 0.2, 200)
    found = difference(np.repeat(effects[:, None], 30, axis=1), np.zeros((200, 30)))
    error = effects.std() / np.sqrt(200)
    assert found.low == pytest.approx(effects.mean() - 1.645 * error, abs=0.1 * error)
    assert found.high == pytest.approx(effects.mean() + 1.645 * error, abs=0.1 * error)


def test_questions_that_all_seeds_share_spread_too():
    """One question in four is answered by all seeds alike: seeds alone would see no spread."""
    arm = np.tile(np.array([1.0, 0, 0, 0] * 10), (5, 1))
    found = difference(arm, np.zeros((5, 40)))
    error = np.sqrt(0.25 * 0.75 / 40)
    assert found.high - found.low == pytest.approx(2 * 1.645 * error, rel=0.1)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        chance = np.clip(0.5 + 0.1 * rng.standard_normal((8, 1)), 0, 1)
        arm = (rng.random((8, 100)) < chance).astype(float)
        found = difference(arm, np.full((8, 100), 0.5), draws=1000, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.8 < hits / 200 < 0.98


@pytest.mark.parametrize(
    ("low", "high", "seeds", "verdict"),
    [
        (-0.02, 0.02, 8, "tie"),
        (0.01, 0.02, 8, "tie"),
        (0.01, 0.2, 3, "higher"),
        (-0.2, -0.01, 3, "lower"),
        (-0.2, 0.2, 3, "undecided"),
        (0.1, 0.2, 2, "undecided"),
    ],
)
def test_the_word_for_it(low, high, seeds, verdict):
    assert Difference(0.0, low, high, seeds).verdict == verdict


def test_a_run_that_never_learned_or_lost_half_collapsed():
    assert run(0.04).collapsed
    assert run(0.4, evaluations=(0.0, 0.9)).collapsed
    assert not run(0.5, evaluations=(0.0, 0.9)).collapsed


def test_acceptance_is_the_mean_over_runs_as_far_as_all_of_them_went():
    runs = [replace(run([1.0]), acceptance=shares) for shares in ((0.0, 0.5, 1.0), (0.5, 0.5))]
    assert acceptance(runs) == [0.25, 0.5]
    assert acceptance([run([1.0])]) == []


def test_only_an_arm_that_rejects_nothing_has_no_curve_of_acceptance():
    all_of_it, some_of_it = (replace(run([1.0]), acceptance=a) for a in ((1.0, 1.0), (1.0, 0.5)))
    assert acceptance([all_of_it, all_of_it]) == []
    assert acceptance([all_of_it, some_of_it]) == [1.0, 0.75]


def test_runs_of_other_questions_are_not_compared():
    other = Run(1, {"a": 1.0, "c": 0.0}, (0.5,), {}, ())
    with pytest.raises(OptionError, match="seed 1 was evaluated on other questions than seed 0"):
        grades([run(1.0), other])
    with pytest.raises(OptionError, match="are not paired"):
        difference(np.zeros((2, 3)), np.zeros((3, 3)))


def test_options_become_those_of_the_command_line():
    plan = {"updates": 3, "env": {"name": "me/Code-v0", "world_seed": 2, "hops": [1, 2]}}
    assert compare.as_arguments(plan) == [
        *("--updates", "3", "--env", "me/Code-v0", "--env.world-seed", "2"),
        *("--env.hops", "1", "2"),
    ]
    assert compare.as_arguments({"algorithm": {"fair": False}}) == ["--algorithm.no-fair"]
    assert compare.as_arguments({"algorithm": {"fair": True}}) == ["--algorithm.fair"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [", "not TOML"),
        ("seeds = [1]", r"expected two \[arms.NAME\] and `baseline`"),
        ("speed = 1", "'speed' is not known"),
        ('baseline = "a"\nseeds = [1, 1]\n[arms.a]\n[arms.b]', "expected different integers"),
    ],
)
def test_a_wrong_plan_is_one_sentence(tmp_path, text, message):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(OptionError, match=message):
        compare.read_plan(tmp_path / "plan.toml")
    with pytest.raises(OptionError, match="no such file"):
        compare.read_plan(tmp_path / "none.toml")


PLAN = """
baseline = "sft"
seeds = [0, 1]
[common]
updates = 1
[arms.sft]
algorithm = "sft"
[arms.ovd]
algorithm.name = "ovd"
algorithm.samples = 2
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The folder of one small run."""
    out = tmp_path_factory.mktemp("real") / "run"
    rollout = RolloutConfig(max_new_tokens=3, max_length=900, slots=8)
    small = {"student": "tiny", "updates": 1, "tasks_per_update": 2, "eval_count": 3}
    Trainer(TrainConfig(out=out, rollout=rollout, algorithm=OVD(samples=2), **small)).run()
    return out


@pytest.fixture
def trained(real, tmp_path, monkeypatch):
    """A plan, and a stand-in for train.py that leaves the files of that run."""
    (tmp_path / "plan.toml").write_text(PLAN)
    commands = []

    def run_script(command, check):
        commands.append(command)
        out = Path(command[command.index("--out") + 1])
        shutil.copytree(real, out)
        summary = json.loads((out / "summary.json").read_text())
        summary["seed"] = int(command[command.index("--seed") + 1])
        if out.name.startswith("sft"):  # which samples nothing that could be accepted
            summary["acceptance"] = [None] * len(summary["acceptance"])
        (out / "summary.json").write_text(json.dumps(summary))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(compare.subprocess, "run", run_script)
    return compare.Options(tmp_path / "plan.toml", tmp_path / "out"), commands


def test_from_a_plan_to_a_report_and_again_without_training(trained, capsys):
    options, commands = trained
    assert run_command(options) == 0
    assert "undecided" in capsys.readouterr().out  # two seeds decide nothing
    trained_in_order = [Path(command[command.index("--out") + 1]).name for command in commands]
    assert trained_in_order == ["sft-0", "ovd-0", "sft-1", "ovd-1"]
    assert commands[1][-6:] == ["--updates", "1", "--algorithm", "ovd", "--algorithm.samples", "2"]
    rows = list(csv.DictReader((options.out / "results.csv").open()))
    assert [(row["arm"], row["seed"]) for row in rows] == [
        *(("sft", "0"), ("sft", "1"), ("ovd", "0"), ("ovd", "1"))
    ]
    page = (options.out / "comparison.html").read_text()
    assert len(re.findall(r'<circle class="dot', page)) >= 4
    assert (options.out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert run_command(options) == 0
    assert len(commands) == 4  # what is finished is read
    assert len(list(options.out.glob("*/checkpoints/*/model.safetensors"))) == 4
    assert not list(options.out.glob("*/checkpoints/*/optimizer.safetensors"))


def test_arms_are_compared_with_any_one_of_them(trained, capsys):
    options, _ = trained
    assert run_command(replace(options, baseline="ovd")) == 0
    assert "minus ovd" in capsys.readouterr().out
    assert run_command(replace(options, baseline="grpo")) == 2
    assert "`baseline` to be one of them" in capsys.readouterr().err


def test_an_arm_may_start_from_another(trained):
    options, commands = trained
    options.plan.write_text(PLAN + 'student = "{out}/sft-{seed}"\n')
    assert run_command(options) == 0
    students = [c[c.index("--student") + 1] for c in commands if "--student" in c]
    assert students == [str(options.out / "sft-0"), str(options.out / "sft-1")]


def test_only_seeds_that_all_arms_finished_are_compared(trained, capsys):
    options, _ = trained
    assert run_command(options) == 0
    shutil.rmtree(options.out / "ovd-1")
    assert run_command(replace(options, only_read=True)) == 0
    assert len(list(csv.DictReader((options.out / "results.csv").open()))) == 2
    shutil.rmtree(options.out / "sft-0")
    assert run_command(replace(options, only_read=True)) == 2
    assert "no seed is finished in every arm" in capsys.readouterr().err


def test_a_run_that_fails_is_named(trained, monkeypatch, capsys):
    options, _ = trained
    failed = subprocess.CompletedProcess([], 2)
    monkeypatch.setattr(compare.subprocess, "run", lambda command, check: failed)
    assert run_command(options) == 2
    assert "arm 'sft', seed 0" in capsys.readouterr().err


@pytest.mark.parametrize("code", [130, -signal.SIGINT], ids=["told", "killed while importing"])
def test_ctrl_c_in_a_run_ends_the_comparison(trained, monkeypatch, capsys, code):
    options, _ = trained
    ended = []

    def run_script(command, check):
        ended.append(command)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(compare.subprocess, "run", run_script)
    assert run_command(options) == 130
    assert "rerun the same command" in capsys.readouterr().err
    assert len(ended) == 1


def test_updates_that_sampled_nothing_are_no_part_of_the_acceptance(real, tmp_path):
    shutil.copytree(real, tmp_path / "run")
    path = tmp_path / "run/summary.json"
    summary = json.loads(path.read_text())
    for shares, kept in (([1.0, 0.5], (1.0, 0.5)), ([None, None], ())):
        path.write_text(json.dumps(summary | {"acceptance": shares}))
        assert read_arm(tmp_path / "run").acceptance == kept
