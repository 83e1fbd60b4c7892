"""Token-level data: who wrote what, and rows that check themselves."""

import numpy as np
import pytest

from ovd_agent.learner.rows import TrainingRow
from ovd_agent.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn

EPISODE = Episode(Task("t", "q", ("a",)), "prompt")


def test_only_student_spans_carry_logprobs():
    trajectory = Trajectory(EPISODE)
    trajectory.append("prompt", [1, 2], -1)
    trajectory.append("student", [3, 4], 0, [-0.5, -0.25])
    trajectory.append("environment", [5], 0)
    assert trajectory.ids == [1, 2, 3, 4, 5]
    assert trajectory.logprobs == [0.0, 0.0, -0.5, -0.25, 0.0]
    assert [(s.author, s.start, s.end, s.turn) for s in trajectory.written] == [
        ("student", 2, 4, 0)
    ]
    with pytest.raises(ValueError, match="belong to the student"):
        trajectory.append("environment", [6], 1, [-0.1])
    with pytest.raises(ValueError, match="belong to the student"):
        trajectory.append("student", [6], 1)
    with pytest.raises(ValueError, match="2 ids came with 1"):
        trajectory.append("student", [6, 7], 1, [-0.1])


@pytest.mark.parametrize("name", ["pg", "ce", "kl", "shaped"])
def test_a_row_cannot_weigh_its_first_token(name: str):
    row = TrainingRow.blank([1, 2, 3], "student")
    row.check()
    getattr(row, name)[0] = 1.0
    with pytest.raises(ValueError, match="first token"):
        row.check()


def test_a_row_of_unequal_lengths_or_infinite_advantage_is_refused():
    row = TrainingRow.blank([1, 2, 3], "student")
    row.advantage[1] = np.inf
    with pytest.raises(ValueError, match="advantage has a value that is not finite"):
        row.check()
    row = TrainingRow.blank([1, 2, 3], "student")
    row.ce = row.ce[:2]
    with pytest.raises(ValueError, match=r"ce has shape \(2,\)"):
        row.check()


def test_a_demonstration_with_behaviour_logprobs_is_an_error():
    row = TrainingRow.blank([1, 2, 3], "demonstration")
    row.check()
    row.behaviour[2] = -0.5
    with pytest.raises(ValueError, match="a demonstration has behaviour log-probabilities"):
        row.check()


def test_a_negative_weight_is_an_error():
    row = TrainingRow.blank([1, 2, 3], "student")
    row.pg[1] = -1.0
    with pytest.raises(ValueError, match="pg has a negative weight; negate the advantage"):
        row.check()


def test_a_fault_has_no_reward():
    episode = Episode(Task("t", "q", ("a",)), "prompt", turns=[Turn("x", "search", "x")])
    with pytest.raises(ValueError, match="ended in a fault and has no reward"):
        _ = Trajectory(episode).reward
