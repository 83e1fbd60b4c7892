"""ROPD: advantages from criteria, by trajectory and by step; a run of it, and who cannot rate."""

import numpy as np
import pytest

from ovd_agent.algorithms.ropd import ROPD
from ovd_agent.rollouts.group import Group
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.logs import read_log
from ovd_agent.runs.trainer import Trainer
from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import Criterion, GroupVerdict
from tests.agent.test_algorithms import CONTEXT, TASK, trajectory

CRITERIA = (Criterion("a", 3.0), Criterion("b", 1.0))
FULFILLED = ((0, 1), (1, None), (None, None), None)
RATINGS = [1.0, 0.75, 0.0]


def judged(fulfilled=FULFILLED):
    samples = [trajectory([1, 2], 0.0, token=7 + 2 * place) for place in range(len(fulfilled))]
    return Group(TASK, samples, verdict=GroupVerdict(CRITERIA, fulfilled))


def advantages(row):
    return row.stream("advantage")[row.stream("pg") != 0].tolist()


@pytest.mark.parametrize("divide", [False, True])
def test_the_advantage_is_the_rating_less_the_mean_of_the_group(divide):
    rows = ROPD(divide_by_std=divide).rows(judged(), CONTEXT)
    assert len(rows) == 3  # the fourth could not be judged
    centred = np.array(RATINGS) - np.mean(RATINGS)
    expected = centred / (np.std(RATINGS, ddof=1) + 1e-4) if divide else centred
    for row, value in zip(rows, expected, strict=True):
        assert advantages(row) == pytest.approx([value] * 4)


def test_with_step_credit_a_turn_has_the_points_from_there_on():
    rows = ROPD(credit="step").rows(judged(), CONTEXT)
    returns = np.array([[1.0, 0.25], [0.75, 0.75], [0.0, 0.0]])  # of turn 0 and of turn 1
    for row, values in zip(rows, returns - returns.mean(), strict=True):
        assert advantages(row) == pytest.approx(np.repeat(values, 2).tolist())


def test_nothing_is_learned_where_nobody_rated_or_all_are_equal():
    assert ROPD().rows(Group(TASK, judged().samples), CONTEXT) == []
    rows = ROPD().rows(judged(((0, 1), (0, 1))), CONTEXT)
    assert [advantages(row) for row in rows] == [[0.0] * 4] * 2


@pytest.fixture
def config(student, tokenizer, tmp_path):
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")

    def make(**options):
        return TrainConfig(
            student=str(tmp_path / "student"),
            out=tmp_path / "run",
            tasks_per_update=2,
            eval_count=1,
            rollout=RolloutConfig(max_new_tokens=8, slots=8, max_length=900),
            **{"env": {"name": "ovd/Math-v0", "count": 10}, "algorithm": "ropd"}
            | {"updates": 1}
            | options,
        )

    return make


STAGED = {"name": "staged", "first_updates": 1, "then": "ropd"}


@pytest.mark.parametrize(("algorithm", "updates"), [("ropd", 1), (STAGED, 2)])
def test_a_run_logs_how_its_samples_were_rated(config, algorithm, updates):
    Trainer(config(algorithm=algorithm, updates=updates)).run()
    *_, record = read_log(config().out / "log.jsonl")
    assert 0 <= record["rating"] <= 1
    assert record["criteria"] >= 3
    assert record["groups_unrated"] == record["samples_unrated"] == 0
    assert record["demonstrations"] > 0


class OnlyScores:
    """A judge of steps, and of nothing else."""

    def score(self, requests):
        return []


@pytest.mark.parametrize("teacher", [None, OnlyScores()])
@pytest.mark.parametrize("algorithm", ["ropd", STAGED])
def test_a_teacher_that_cannot_rate_is_named_before_anything_is_played(config, teacher, algorithm):
    with pytest.raises(OptionError, match=r"no method rate\(requests\)"):
        Trainer(config(env={"name": "ovd/Math-v0", "teacher": teacher}, algorithm=algorithm))
