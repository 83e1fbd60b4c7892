"""`ovd train --engine trl`: whole runs of a random student, by one process and by two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ovd_agent.cli.main import main
from ovd_agent.models import compute_dtype
from ovd_agent.runs.folder import read_run
from ovd_agent.runs.logs import read_log

pytest.importorskip("trl", reason='pip install -e ".[dev]"')
from ovd_agent.engines.trl_run import interleaved, joined

COMMAND = [
    *("train", "--engine", "trl", "--student", "tiny", "--env", "ovd/Math-v0"),
    # A demonstration in each group, so that a student that knows nothing learns from its own play.
    *("--algorithm", "luffy", "--algorithm.samples", "3", "--tasks-per-update", "4"),
    *("--eval-count", "7", "--checkpoint-every", "1", "--learner.minibatches", "2"),
    *("--learner.learning-rate", "0.01"),
]


TORCHRUN = ["-m", *"torch.distributed.run --standalone --nproc-per-node 2 -m".split()]
TORCHRUN += ["ovd_agent.cli.main"]


def test_the_documentation_starts_two_processes_as_the_test_does():
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text("utf-8")
    assert "torchrun --nproc-per-node 2 -m ovd_agent.cli.main train" in page


def options(out: Path, updates: int) -> list[str]:
    return [*COMMAND, "--out", str(out), "--updates", str(updates)]


def test_a_run_is_like_any_other_and_resumes(tmp_path, capsys):
    assert main(options(tmp_path, 1)) == 0
    assert main(options(tmp_path, 3)) == 0
    assert "3 updates in" in capsys.readouterr().out
    run = read_run(tmp_path)
    assert [line["update"] for line in run.updates] == [0, 1, 2]
    assert len(run.before) == len(run.after) == 7
    assert (tmp_path / "report.html").exists()
    # Sampled and learned by the same weights, which did change.
    rounding = 1e-4 if compute_dtype(torch.device("cpu")) is torch.float32 else 1e-2
    assert all(line["gap"] < rounding for line in run.updates)
    assert all(line["optimizer_steps"] == 2 for line in run.updates)
    assert run.updates[2]["entropy"] != pytest.approx(run.updates[0]["entropy"], rel=1e-4)
    assert (
        main(["evaluate", "--student", str(tmp_path), "--env", "ovd/Math-v0", "--count", "3"]) == 0
    )


@pytest.mark.several
def test_two_processes_share_a_run(tmp_path):
    """Sharded, so that another copy of the student plays."""
    environment = {
        **os.environ, "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    out = tmp_path / "run"
    launched = [sys.executable, *TORCHRUN, *options(out, 2)]
    ran = subprocess.run(launched, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("2 processes of TRL") == ran.stdout.count("updates in") == 1
    log = read_log(out / "log.jsonl")
    assert [len(line["tasks"]) for line in log] == [4, 4]
    assert len({task for line in log for task in line["tasks"]}) == 8
    assert all(line["gap"] < 1e-4 for line in log)
    assert [len(line["score_histogram"]) for line in log] == [10, 10]
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["before"]["count"] == 7
    assert summary["optimizer_steps"] == 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--eval-every", "1"], "engine trl evaluates before and after"),
        (["--engine.passes-per-step", "0"], "passes_per_step=0: expected at least 1"),
    ],
)
def test_what_it_does_not_do_is_one_sentence(tmp_path, capsys, more, said):
    assert main([*options(tmp_path, 1), *more]) == 2
    assert said in capsys.readouterr().err


def test_figures_of_processes_are_joined():
    first = {
        "em": 0.5,
        "n": 2,
        "ends": {"answered": 1},
        "tasks": ["a"],
        "levels": [1, 0],
        "x": None,
    }
    second = {"em": 0.0, "n": 3, "ends": {"failed": 2}, "tasks": ["b"], "levels": [0, 4], "x": 1.0}
    assert joined([first, second]) == {
        "em": 0.25, "n": 5, "ends": {"answered": 1, "failed": 2}, "tasks": ["a", "b"],
        "levels": [1, 4], "x": 1.0,
    }  # fmt: skip
    assert interleaved([[0, 2, 4], [1, 3]]) == [0, 1, 2, 3, 4]
