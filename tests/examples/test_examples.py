"""The examples, run from outside the repository as a user would: they train, resume after a kill,
and are refused with other options."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ovd_agent.cli import main
from ovd_agent.runs.logs import read_log
from ovd_envs.episode import read_episodes

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    *("--student", "tiny", "--updates", "2", "--tasks-per-update", "2", "--eval-count", "2"),
    *("--rollout.max-length", "1500", "--rollout.max-new-tokens", "4", "--checkpoint-every", "1"),
)
OWN = {
    "environment": (
        ("--env", "own_environment:me/Guess-v0", "--env.largest", "9"),
        ("--env.largest", "8"),
        "env.largest=9, not 8",
    ),
    "algorithm": (
        ("--algorithm", "own_algorithm:RLOO", "--algorithm.samples", "2"),
        ("--algorithm.samples", "3"),
        "algorithm.samples=2, not 3",
    ),
    "teacher": (
        ("--teacher", "own_teacher:AnswerInPassages", "--teacher.patience", "2"),
        ("--teacher.patience", "1"),
        "env.teacher.patience=2, not 1",
    ),
    "search_engine": (
        (
            *("--search", "own_search_engine:FreshWords", "--search.path", "passages.jsonl"),
            *("--env.tasks", "questions.jsonl", "--eval-tasks", "questions.jsonl"),
        ),
        ("--search.path", "new_passages.jsonl"),
        "env.search.path='passages.jsonl', not 'new_passages.jsonl'",
    ),
}
KILLED = ("environment", "search_engine")
"""The others are stopped, since a process of its own takes its time to begin."""
PAUSED = """
import sys, time
from ovd_agent.cli import main
from ovd_agent.runs.trainer import Trainer
step = Trainer.step
def paused(self):
    if self.update == 1:
        open("waiting", "w").close()
        time.sleep(600)
    return step(self)
Trainer.step = paused
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with a copy of the examples, from which commands are run."""
    for path in EXAMPLES.glob("*.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(EXAMPLES)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", OWN)
def test_an_own_part_trains_resumes_and_is_refused_with_other_options(elsewhere, kind, capsys):
    options, others, said = OWN[kind]
    command = ["train", *options, *SMALL, "--out", "run"]
    if kind in KILLED:
        killed_after_an_update(command, elsewhere)
    else:
        assert main.main([*command, "--updates", "1"]) == 0
    assert main.main([*command, *others]) == 2
    assert f"run was started with {said}" in capsys.readouterr().err
    assert main.main(command) == 0
    out = capsys.readouterr().out
    assert "after update 1 of 2" in " ".join(out.split())
    assert [record["update"] for record in read_log(elsewhere / "run/log.jsonl")] == [0, 1]
    assert main.main(["evaluate", "--student", "run", "--count", "2"]) == 0
    assert "2 tasks of questions.jsonl" in (out := capsys.readouterr().out) or "generated" in out


def killed_after_an_update(command, elsewhere):
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSED, *command],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while process.poll() is None and not (elsewhere / "waiting").exists():
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read().decode()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def script(elsewhere, monkeypatch, capsys):
    """Runs an example as a script; returns what it printed."""

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        module = type(sys)("example")
        module.__dict__["__name__"] = "__main__"
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile((elsewhere / name).read_text(), name, "exec"), module.__dict__)
        return capsys.readouterr().out

    return run


def test_the_method_in_one_file_runs(script):
    words = ["--student", "tiny", "--updates", "2", "--tasks", "2", "--held-out", "2"]
    out = script("ovd_in_one_file.py", *words, "--max-length", "900")
    assert "update 2: accepted 0.00, 4 demonstrations" in out
    assert "after: EM" in out


def test_ppo_without_our_trainer_runs(script):
    words = ["--student", "tiny", "--iterations", "2", "--num-envs", "2", "--max-length", "300"]
    out = script("ppo_in_one_file.py", *words)
    assert "iteration 2: reward" in out
    assert "nan" not in out


def test_trl_trains_on_our_environment(script, elsewhere):
    pytest.importorskip("trl", reason='pip install -e ".[trl]"')
    words = ["--student", "tiny", "--steps", "1", "--tasks", "1", "--samples", "2"]
    script("trl_grpo.py", *words, "--max-length", "300", "--out", str(elsewhere / "run"))
    assert (elsewhere / "run" / "model.safetensors").exists()


def test_recorded_transcripts_are_graded_and_scored(script, elsewhere):
    words = ["--transcripts", "transcripts.jsonl", "--tasks", "questions.jsonl"]
    out = script("recorded_episodes.py", *words)
    assert "q1: 'Lisbon', EM 1.0, scores 9 9" in out
    assert "q2: 'Douro', EM 0.0, scores 4 1" in out
    assert "exact match 0.50 of 4 episodes" in out
    assert len(list(read_episodes(elsewhere / "recorded.jsonl"))) == 4


def test_ppo_estimates_advantages_as_the_definition_says(monkeypatch):
    """Over the tokens that were written alone, against the sum over their TD errors."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    ppo = importlib.import_module("ppo_in_one_file")
    options = ppo.Options(gamma=0.9, gae_lambda=0.8)
    rewards = torch.tensor([[0.0, 0.5, 9.0, 0.0, 1.0]])
    values = torch.tensor([[0.3, 0.2, 7.0, 0.4, 0.1]])
    written = torch.tensor([[True, True, False, True, True]])
    advantages, returns = ppo.estimate(rewards, values, written, options)
    where = [0, 1, 3, 4]
    errors = []
    for place, following in zip(where, [*where[1:], None], strict=True):
        after = 0.0 if following is None else 0.9 * float(values[0, following])
        errors.append(float(rewards[0, place]) + after - float(values[0, place]))
    for index, place in enumerate(where):
        expected = sum(0.72**n * error for n, error in enumerate(errors[index:]))
        assert float(advantages[0, place]) == pytest.approx(expected)
    assert torch.equal(returns, advantages + values)
    assert float(advantages[0, 2]) == 0.0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 250
