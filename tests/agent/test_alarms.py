"""Each way in which a run fails silently is said, with advice, when it begins."""

import random
import re

import pytest

from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_agent.runs.alarms import ALARMS, Alarms
from ovd_agent.runs.metrics import truth_of_accepted
from ovd_envs.episode import VerbalScore
from ovd_envs.registry import make_scenario
from ovd_envs.scenarios import MATH

GOOD = {
    "ends": {"answered": 10},
    "optimizer_steps": 4,
    "demonstrations_failed": 0,
    "acceptance": 0.5,
    "threshold": 7.0,
    "score_histogram": [10, 0, 0, 20, 0, 0, 0, 10, 0, 30],
    "gap": 0.01,
    "kl_behaviour": 0.01,
    "peak_memory_mb": 1000.0,
}
SPREADLESS = [0] * 9 + [80]


def said(*changes, algorithm=None):
    """What is said after each update."""
    alarms = Alarms(448, 10)
    return [alarms.advice(GOOD | change, algorithm) for change in changes]


def test_a_good_run_says_nothing():
    assert said(*[{}] * 20) == [[]] * 20


@pytest.mark.parametrize(
    ("change", "first", "words"),
    [
        ({"ends": {"answered": 7, "length_limit": 3}}, 0, "30% .* raise it"),
        ({"optimizer_steps": 0}, 0, "nothing was trained.* begin with imitation"),
        (
            {"acceptance": 0.0},
            9,
            r"no sample was accepted in 10 updates: lower algorithm\.threshold",
        ),
        ({"score_histogram": SPREADLESS}, 0, "gave all 80 steps the score 9.*ovd calibrate"),
        (
            {"accepted_samples": 32, "accepted_em": 0.1},
            0,
            r"of the last 32 samples .* accepted 10% are right: judged and true reward part",
        ),
        ({"accepted_samples": 5, "accepted_em": 0.0}, 2, r"of the last 15 samples"),
        ({"kl_behaviour": 0.3}, 2, r"moves 0\.30 nats a token.*learning_rate"),
    ],
)
def test_an_alarm_is_said_when_it_begins_and_again_after_it_has_ceased(change, first, words):

    found = said(*[change] * 12, {}, {}, {}, *[change] * 12)
    assert [len(each) for each in found[: first + 1]] == [0] * first + [1]
    assert re.search(words, found[first][0])
    assert found[first + 1 : 15] == [[]] * (14 - first)
    assert sum(map(len, found)) == 2


def test_a_gap_that_grows_is_told_from_one_that_is_there_from_the_beginning():
    grown = [{"gap": 0.02 + 0.02 * n} for n in range(12)]
    [[text]] = [each for each in said(*grown) if each]
    assert "policy drifts away from the learner" in text
    assert not any(said(*[{"gap": 0.08}] * 12))


def test_memory_that_grows_after_the_second_update():
    [[text]] = [
        each for each in said(*[{"peak_memory_mb": 1000.0 + 200 * n} for n in range(9)]) if each
    ]
    assert "from 1,200 to 2,200 MB" in text
    first_only = [{"peak_memory_mb": 1000.0}, *[{"peak_memory_mb": 5000.0}] * 9]
    assert not any(said(*first_only))


def test_what_is_meant_or_unknown_is_no_alarm():
    assert not any(said(*[{"acceptance": 0.0, "threshold": 10.0}] * 19))  # imitation by design
    assert not any(said(*[{"acceptance": None}] * 19))
    assert not any(said(*[{"score_histogram": [0] * 10}] * 9))  # no teacher
    assert not any(said(*[{"score_histogram": [0] * 8 + [9, 0]}] * 9))  # too few


def test_the_algorithms_own_advice_is_one_of_them():
    assert said({}, {}, algorithm="raise θ") == [["raise θ"], []]
    assert len(ALARMS) == 8


def test_a_resumed_run_knows_what_came_before():
    alarms = Alarms(448, 10, [GOOD | {"acceptance": 0.0}] * 9)
    [text] = alarms.advice(GOOD | {"acceptance": 0.0})
    assert "no sample was accepted" in text


class SaysPerfect:
    """A judge that a student can please: 9 for whatever contains "perfect"."""

    def score(self, requests):
        levels = [9 if "perfect" in request.turn.action else 1 for request in requests]
        return [VerbalScore(level, float(level), "", "planted") for level in levels]


def judged_by(teacher, flattering, seed):
    """The figures of an update whose samples flatter with this chance, and are seldom right."""
    scenario, tasks = make_scenario(MATH, count=16, teacher=teacher)
    rng, context = random.Random(seed), Context(0, 1, 10, None)
    for task in tasks:
        [episode] = scenario.begin([task])
        said = "perfect " if rng.random() < flattering else ""
        answer = task.answers[0] if rng.random() < 0.3 else "no idea"
        steps = "\n".join(task.metadata["steps"])
        scenario.advance([episode], [f"<think>{said}{steps}</think>"])
        scenario.advance([episode], [f"<think>{said}done</think><answer>{answer}</answer>"])
        found = Trajectory(episode)
        found.append("prompt", [1], -1)
        for turn in (0, 1):
            found.append("student", [2], turn, [-1.0])
        OVD(samples=1).rows(Group(task, [found]), context)
    return GOOD | truth_of_accepted(context.judged)


def test_a_judge_that_is_pleased_is_caught_within_three_updates():
    alarms = Alarms(448, 10)
    found = [alarms.advice(judged_by(SaysPerfect(), 0.3 * (n + 1), n)) for n in range(3)]
    assert sum("judged and true reward part" in text for each in found for text in each) == 1


@pytest.mark.parametrize("run", range(10))
def test_a_judge_that_knows_is_never_accused(run):
    alarms = Alarms(448, 10)
    assert not any(alarms.advice(judged_by("oracle", 0.5, 10 * run + n)) for n in range(5))
