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
from ovd_agent.runs.arms import read_arm, read_record, write_csv, write_record
from ovd_agent.runs.comparison import (
    Difference,
    Run,
    acceptance,
    collapsed,
    difference,
    differences,
    grades,
    interval,
)
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.trainer import Trainer
from ovd_envs.errors import OptionError


def run_command(options):
    """The command with these options; its exit status."""
    arguments = ["--plan", str(options.plan), "--out", str(options.out)]
    arguments += ["--only-read"] if options.only_read else []
    arguments += ["--arms", *options.arms] if options.arms else []
    arguments += ["--baseline", options.baseline] if options.baseline else []
    return main.run("ovd_agent.cli.compare", arguments)


def run(em, seed=0, evaluations=(0.0,), grades=None):
    grades = grades if grades is not None else {"a": em, "b": em}
    return Run(seed, em, collapsed(em, evaluations), grades, dict.fromkeys(grades, 1), {}, ())


def arm_of(grades):
    """An arm from grades [seeds, questions]."""
    return [
        run(float(np.mean(row)), seed, grades=dict(zip(map(str, range(len(row))), map(float, row))))
        for seed, row in enumerate(np.asarray(grades, dtype=float))
    ]


def test_equal_arms_differ_by_nothing():
    arm = arm_of(np.random.default_rng(0).integers(0, 2, (4, 50)))
    assert difference(arm, arm) == Difference(0.0, 0.0, 0.0, 4, (0.0, 0.0))
    assert difference(arm, arm).verdict == "tie"


def test_a_constant_difference_has_no_spread():
    ones, zeros = arm_of(np.ones((3, 40))), arm_of(np.zeros((3, 40)))
    found = difference(ones, zeros)
    assert (found.mean, found.low, found.high, found.verdict) == (1.0, 1.0, 1.0, "higher")
    assert difference(zeros, ones).verdict == "lower"


def test_the_interval_is_that_of_students_t():
    """By hand: three differences; t at 95% with two degrees of freedom is 2.920."""
    mean, low, high = interval(np.array([0.1, 0.2, 0.6]))
    reach = 2.91999 * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.3, 0.3 - reach, 0.3 + reach), abs=1e-4)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_it_covers_the_truth_as_often_as_it_says(seeds):
    """Arms that differ by nothing but a seed's luck of 0.08, each asked the same 200 questions."""
    rng, trials, hits = np.random.default_rng(seeds), 4000, 0
    for _ in range(trials):
        chance = np.clip(0.6 + 0.08 * rng.standard_normal((2, seeds)), 0, 1)
        em = rng.binomial(200, chance) / 200
        _, low, high = interval(em[0] - em[1])
        hits += low <= 0 <= high
    assert 0.88 <= hits / trials <= 0.92


def test_the_bootstrap_shows_the_spread_of_the_questions():
    """One question in four is answered by all seeds alike: the seeds alone see no spread."""
    arm = arm_of(np.tile([1.0, 0, 0, 0] * 10, (5, 1)))
    found = difference(arm, arm_of(np.zeros((5, 40))))
    low, high = found.questions
    assert found.high - found.low == pytest.approx(0, abs=1e-9)
    assert high - low == pytest.approx(2 * 1.645 * np.sqrt(0.25 * 0.75 / 40), rel=0.1)


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
    runs = [replace(run(1.0), acceptance=shares) for shares in ((0.0, 0.5, 1.0), (0.5, 0.5))]
    assert acceptance(runs) == [0.25, 0.5]
    assert acceptance([run(1.0)]) == []


def test_only_an_arm_that_rejects_nothing_has_no_curve_of_acceptance():
    all_of_it, some_of_it = (replace(run(1.0), acceptance=a) for a in ((1.0, 1.0), (1.0, 0.5)))
    assert acceptance([all_of_it, all_of_it]) == []
    assert acceptance([all_of_it, some_of_it]) == [1.0, 0.75]


def test_runs_of_other_questions_are_not_compared():
    other = run(0.5, 1, grades={"a": 1.0, "c": 0.0})
    with pytest.raises(OptionError, match="seed 1 was evaluated on other questions than seed 0"):
        grades([run(1.0), other])
    with pytest.raises(OptionError, match="are not paired"):
        difference([run(1.0, 0), run(1.0, 1)], [run(1.0, 0), run(1.0, 2)])


def test_a_record_holds_all_that_a_table_is_made_of(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arms = {name: arm_of(rng.random((3, 40)) < chance) for name, chance in (("a", 0.4), ("b", 0.9))}
    arms = {
        name: [replace(r, acceptance=(0.25, 1.0), ledger={"updates": 3.0}) for r in runs]
        for name, runs in arms.items()
    }
    write_record(tmp_path / "record.json", arms, "a", "plan")
    again, baseline = read_record(tmp_path / "record.json")
    assert (again, baseline) == (arms, "a")
    assert differences(again, baseline) == differences(arms, "a")
    write_csv(tmp_path / "results.csv", arms)
    older, baseline = read_record(tmp_path / "results.csv")
    assert baseline is None
    without = {
        name: replace(found, questions=None) for name, found in differences(arms, "a").items()
    }
    for name, found in differences(older, "a").items():
        assert found.mean == pytest.approx(without[name].mean, abs=1e-4)
        assert (found.verdict, found.questions) == (without[name].verdict, None)
    for name in ("record.json", "results.csv"):
        assert main.run("ovd_agent.cli.compare", ["--show", str(tmp_path / name)]) == 0
        assert "higher" in capsys.readouterr().out
    assert main.run("ovd_agent.cli.compare", ["--show", str(tmp_path / "none.json")]) == 2
    (tmp_path / "torn.json").write_text("{")
    assert main.run("ovd_agent.cli.compare", ["--show", str(tmp_path / "torn.json")]) == 2
    assert "is no record of a comparison" in capsys.readouterr().err
    assert main.run("ovd_agent.cli.compare", []) == 2


RECORDS = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("*.csv"))
DOCS = Path(__file__).parents[2] / "docs"


def test_every_difference_of_the_docs_is_one_that_a_record_gives():
    printed = set()
    for record in RECORDS:
        arms, _ = read_record(record)
        for baseline in arms:
            for found in differences(arms, baseline).values():
                interval = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
                printed.add(f"{interval}, {found.verdict}")
    text = (DOCS / "results.md").read_text() + (DOCS / "training.md").read_text()
    claimed = re.findall(
        r"[+-]\d\.\d{3} \([+-]\d\.\d{3} to [+-]\d\.\d{3}\), (?:higher|lower|tie|undecided)", text
    )
    assert len(claimed) > 20
    assert [claim for claim in claimed if claim not in printed] == []


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


def test_some_arms_can_be_trained_first(trained, capsys):
    options, commands = trained
    more = '\n[arms.cold]\nalgorithm = "sft"\n[arms.late]\nalgorithm = "ovd"\n'
    options.plan.write_text(PLAN + 'student = "{out}/cold-{seed}"\n' + more)
    assert run_command(replace(options, arms=("ovd",))) == 0
    assert not any("late-" in " ".join(command) for command in commands)
    assert any("cold-0" in " ".join(command) for command in commands)
    assert run_command(replace(options, arms=("lats",))) == 2
    assert "'lats' is no arm of the plan: expected some of" in capsys.readouterr().err


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
