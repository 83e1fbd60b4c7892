"""The examples, run from outside the repository as a user would: they train, resume after a kill,
and are refused with other options."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovd_agent.cli import main
from ovd_agent.runs.logs import read_log

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


def test_the_method_in_one_file_runs(elsewhere, monkeypatch, capsys):
    words = ["--student", "tiny", "--updates", "2", "--tasks", "2", "--held-out", "2"]
    monkeypatch.setattr(sys, "argv", ["ovd_in_one_file.py", *words, "--max-length", "900"])
    code = compile((elsewhere / "ovd_in_one_file.py").read_text(), "ovd_in_one_file.py", "exec")
    module = type(sys)("one_file")
    module.__dict__["__name__"] = "__main__"
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(code, module.__dict__)
    out = capsys.readouterr().out
    assert "update 2: accepted 0.00, 4 demonstrations" in out
    assert "after: EM" in out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 250
