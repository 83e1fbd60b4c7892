"""Long runs under trouble: a teacher's server that fails, trainers that are killed and compete.

Run by `make test-faults`; a few updates with a failing server run always.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from faulty_server import FAULTS, Server, answer_of

from ovd_agent.algorithms.ovd import OVD
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.logs import read_log
from ovd_agent.runs.trainer import Trainer

QUICK = sorted(kind for kind in FAULTS if FAULTS[kind] != "timeout")
SLOW = sorted(kind for kind in FAULTS if FAULTS[kind] == "timeout")


@pytest.fixture
def student_folder(student, tokenizer, tmp_path):
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


class Judge:
    """A plan for a server: three requests in ten fail, the others get a digit."""

    def __init__(self):
        self.given = Counter()

    def __call__(self, number, body):
        rng = random.Random(number)
        chance = rng.random()
        if chance < 0.02:
            return rng.choice(SLOW)
        if chance < 0.3:
            return rng.choice(QUICK)
        digit = rng.choice("0123456789")
        self.given[digit] += 1
        return answer_of(digit, [(digit, [(digit, math.nan)])]) if chance < 0.35 else digit


@pytest.mark.parametrize("updates", [3, pytest.param(100, marks=pytest.mark.faults)])
def test_every_fault_is_counted_and_no_score_invented(
    student_folder, tmp_path, monkeypatch, updates
):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.01)
    judge = Judge()
    server = Server(judge)
    config = TrainConfig(
        env={"name": "ovd/Math-v0", "count": 20, "levels": (1, 2), "max_turns": 3},
        teacher={
            "name": "openai",
            "model": "m",
            "base_url": server.url,
            "try_seconds": 3.0,
        },
        demonstrator="oracle",
        student=str(student_folder),
        out=tmp_path / "run",
        updates=updates,
        tasks_per_update=3,
        eval_count=3,
        rollout=RolloutConfig(max_new_tokens=8, slots=8, max_length=900),
        algorithm=OVD(),
    )
    summary = Trainer(config).run()
    server.over.set()
    server.shutdown()
    usage = summary["teacher"]["usage"]
    assert usage["faults"] == dict(server.faults)
    assert usage["requests"] == len(server.bodies)
    assert sum(server.faults.values()) > 0.2 * len(server.bodies)
    if updates == 100:
        assert set(FAULTS.values()) == set(server.faults)
    # Each digit that was sent is a score, and no score is anything else.
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert len(log) == updates
    histogram = [sum(line["score_histogram"][level] for line in log) for level in range(10)]
    assert histogram == [judge.given[str(level)] for level in range(10)]
    assert summary["teacher"]["missing_scores"] == 0
    assert summary["teacher"]["scores"] == sum(histogram) == summary["score_calls"]
    print(json.dumps({"requests": usage["requests"], "faults": usage["faults"]}))


@pytest.mark.faults
def test_trainers_that_compete_and_are_killed_leave_one_consistent_log(student_folder, tmp_path):
    """Twice the same command at a time; each time both are ended after one update more."""
    updates, kills, rng = 24, 20, random.Random(0)
    words = [
        *("--env", "ovd/Math-v0", "--student", str(student_folder), "--updates", str(updates)),
        *("--tasks-per-update", "3", "--env.count", "20", "--env.levels", "1", "2"),
        *("--env.max-turns", "3", "--rollout.max-length", "900", "--eval-count", "3"),
        *("--rollout.max-new-tokens", "8", "--rollout.slots", "8", "--checkpoint-every", "1"),
    ]

    def start(out):
        command = [sys.executable, "-m", "ovd_agent.cli.main", "train", "--out", str(out), *words]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def lines():
        log = out / "log.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    out, done, refused = tmp_path / "run", 0, 0
    while done < kills:
        before, pair = lines(), [start(out), start(out)]
        while lines() <= before and any(each.poll() is None for each in pair):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        for each in pair:
            how = rng.choice([signal.SIGKILL, signal.SIGTERM])
            if each.poll() is None:
                os.killpg(each.pid, how)
                done += 1
            status = each.wait()
            refused += status == 2
            assert status in (0, 2, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM)
    last = start(out)
    assert last.wait() == 0, last.stderr.read()
    whole = start(tmp_path / "whole")
    assert whole.wait() == 0
    assert refused > 0
    found, expected = (read_log(folder / "log.jsonl") for folder in (out, tmp_path / "whole"))
    assert [line["update"] for line in found] == list(range(updates))
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "acceptance", "tasks", "trajectory_scores", "grad_norm"):
            assert ours[name] == theirs[name]
