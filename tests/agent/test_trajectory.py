"""Token-level data: who wrote what, and rows that check themselves."""

import numpy as np
import pytest

from ovd_agent.algorithms.rows import policy_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses import loss_components
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn

LOSSES = loss_components()
EPISODE = Episode(Task("t", "q", ("a",)), "prompt")


def test_only_student_spans_carry_logprobs():
    trajectory = Trajectory(EPISODE)
    trajectory.append("prompt", [1, 2], -1)
    trajectory.append("student", [3, 4], 0, [-0.5, -0.25])
    trajectory.append("environment", [5], 0)
    assert trajectory.ids == [1, 2, 3, 4, 5]
    assert trajectory.logprobs == pytest.approx([np.nan, np.nan, -0.5, -0.25, np.nan], nan_ok=True)
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
    row.check(LOSSES)
    row.stream(name)[0] = 1.0
    with pytest.raises(ValueError, match="first token"):
        row.check(LOSSES)


def test_a_row_of_unequal_lengths_or_infinite_advantage_is_refused():
    row = TrainingRow.blank([1, 2, 3], "student")
    row.stream("advantage")[1] = np.inf
    with pytest.raises(ValueError, match="advantage has a value that is not finite"):
        row.check(LOSSES)
    row = TrainingRow.blank([1, 2, 3], "student")
    row.streams["ce"] = row.stream("ce")[:2]
    with pytest.raises(ValueError, match=r"ce has shape \(2,\)"):
        row.check(LOSSES)


def test_a_demonstration_with_behaviour_logprobs_is_an_error():
    row = TrainingRow.blank([1, 2, 3], "demonstration")
    row.check(LOSSES)
    row.stream("behaviour")[2] = -0.5
    with pytest.raises(ValueError, match="a token that the student did not write has a behaviour"):
        row.check(LOSSES)


def test_a_negative_weight_is_an_error():
    row = TrainingRow.blank([1, 2, 3], "student")
    row.stream("pg")[1] = -1.0
    with pytest.raises(ValueError, match="pg has a negative weight; negate the advantage"):
        row.check(LOSSES)


def test_a_fault_has_no_reward():
    episode = Episode(Task("t", "q", ("a",)), "prompt", turns=[Turn("x", "search", "x")])
    with pytest.raises(ValueError, match="ended in a fault and has no reward"):
        _ = Trajectory(episode).reward


def mixed() -> Trajectory:
    """A student's first turn, and a teacher's second."""
    trajectory = Trajectory(EPISODE)
    trajectory.append("prompt", [1, 2], -1)
    trajectory.append("student", [3, 4], 0, [-0.5, -0.25])
    trajectory.append("environment", [5], 0)
    trajectory.append("teacher", [6, 7], 1)
    return trajectory


def test_a_row_may_begin_with_the_students_tokens_and_go_on_with_the_teachers():
    row = policy_row(mixed(), [0.7, 0.0])
    row.stream("ce")[row.wrote("teacher")] = 1.0
    row.check(LOSSES)
    assert row.stream("pg").tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert row.stream("ce").tolist() == [0, 0, 0, 0, 0, 1, 1]
    behaviour = pytest.approx([np.nan, np.nan, -0.5, -0.25, np.nan, np.nan, np.nan], nan_ok=True)
    assert row.stream("behaviour").tolist() == behaviour
    assert not mixed().is_demonstration


@pytest.mark.parametrize("place", [5, 6])
def test_a_teachers_token_has_no_behaviour_wherever_it_stands(place: int):
    row = policy_row(mixed(), [0.7, 0.0])
    row.stream("behaviour")[place] = -0.1
    with pytest.raises(ValueError, match="a token that the student did not write has a behaviour"):
        row.check(LOSSES)


@pytest.mark.parametrize("place", [1, 4])
def test_what_nobody_wrote_is_not_trained_on(place: int):
    row = policy_row(mixed(), [0.7, 0.0])
    row.stream("ce")[place] = 1.0
    with pytest.raises(ValueError, match="a token of the prompt or the environment is weighted"):
        row.check(LOSSES)


def test_a_stream_that_no_component_reads_is_an_error():
    row = TrainingRow.blank([1, 2, 3], "student")
    row.stream("pgg")[1] = 1.0
    with pytest.raises(ValueError, match="has a stream 'pgg', which no component"):
        row.check(LOSSES)


def test_the_beginning_of_a_trajectory_keeps_its_tokens_and_log_probabilities():
    whole = mixed()
    kept = whole.before(1, EPISODE)
    assert kept.ids == [1, 2, 3, 4, 5]
    assert kept.logprobs == pytest.approx([np.nan, np.nan, -0.5, -0.25, np.nan], nan_ok=True)
    assert [each.author for each in kept.segments] == ["prompt", "student", "environment"]
    assert whole.before(0, EPISODE).ids == [1, 2]
