"""What was right at 04877ac, before parts became registered names, is still what happens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow
from ovd_envs.calibration.players import at_random, careless, lazy, oracle, play
from ovd_envs.episode import Episode
from ovd_envs.registry import make_scenario
from ovd_envs.tasks.fiction import World
from retrieval_index import PassageIndex, build_index
from tests.agent.tiny import tiny_model

RECORD = json.loads(Path(__file__).with_name("at_04877ac.json").read_text())


def digest(episode: Episode) -> str:
    data = json.loads(episode.to_json())
    data.pop("rubric")  # which records did not have
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", RECORD["episodes"])
def test_episodes_are_the_same_byte_for_byte(name: str) -> None:
    recorded = RECORD["episodes"][name]
    scenario, tasks = make_scenario(recorded["env"], **recorded["options"])
    players = {
        "oracle": oracle(scenario),
        "careless": careless(scenario, 0.5),
        "lazy": lazy,
        "random": at_random,
    }
    for player, digests in recorded["digests"].items():
        assert [digest(each) for each in play(scenario, tasks, players[player], 7)] == digests
    if "first" in recorded:
        [first] = play(scenario, tasks[:1], oracle(scenario), 7)
        data = json.loads(first.to_json())
        assert data.pop("rubric")
        assert data == recorded["first"]


def test_an_index_has_the_same_bytes(tmp_path: Path) -> None:
    build_index(World(60, 2).passages, tmp_path / "i", "hashing", bm25=False, progress=False)
    index = PassageIndex.open(tmp_path / "i")
    recorded = RECORD["index"]
    assert {file.path: file.sha256 for file in index.manifest.files} == recorded["files"]
    assert index.fingerprint == recorded["fingerprint"]
    queries = ["mayor of Aldhaven", "who wrote The Red Moon", "x"]
    found = [[each.id for each in documents] for documents in index.search(queries, 5)]
    assert found == recorded["found"]


def recorded_rows() -> list[TrainingRow]:
    rows: list[TrainingRow] = []
    for each in RECORD["rows"]:
        row = TrainingRow.blank(each["ids"], each["kind"])
        row.copies = each["copies"]
        for name in ("pg", "ce", "kl", "shaped", "advantage", "behaviour"):
            row.stream(name)[:] = [np.nan if value is None else value for value in each[name]]
        rows.append(row)
    return rows


@pytest.mark.parametrize("per", ["tokens", "rows"])
def test_losses_and_gradients_are_the_same(per: str) -> None:
    """But for the KL, whose gradient was that of another divergence (test_losses.py)."""
    recorded = RECORD["learner"][per]
    model, rows = tiny_model(1), recorded_rows()
    learner = Learner(model, LearnerConfig(loss_per=per, token_budget=64), temperature=0.9)
    metrics = learner.backward(rows)
    metrics["ce_loss"] += metrics.pop("shaped_loss")  # which were one figure
    known = {name: metrics[name] for name in recorded["metrics"]}  # there are more figures now
    assert known == pytest.approx(recorded["metrics"], rel=1e-9)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        total, norm = recorded["gradients"][name]
        assert float(parameter.grad.norm()) == pytest.approx(norm, rel=1e-9)
        assert float(parameter.grad.sum()) == pytest.approx(total, abs=1e-9 * max(1.0, norm))
