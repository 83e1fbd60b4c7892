"""What every teacher keeps to, ours and the example's."""

from __future__ import annotations

import pytest

from ovd_envs.calibration.players import at_random, play
from ovd_envs.registry import make_scenario
from ovd_envs.teachers import TEACHERS
from ovd_envs.teachers.base import Demonstrator, Judge, ScoreRequest, TeacherContext

NAMES = [*TEACHERS.names(), "own_teacher:AnswerInPassages"]
SERVED = ("openai", "environment_agent")
NOWHERE = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "total_seconds": 0.5}
OPTIONS = dict.fromkeys(SERVED, NOWHERE)
ENV = "ovd/WebQA-v0"


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def teacher(name):
    context = TeacherContext(ENV, "question", 3, 10)
    return TEACHERS.choose({"name": name, **OPTIONS.get(name, {})}).build(context)


@pytest.fixture(scope="module")
def episodes():
    scenario, tasks = make_scenario(ENV, max_invalid=None, passages=200)
    return play(scenario, tasks[:10], at_random)


def test_it_judges_and_demonstrates(teacher):
    assert isinstance(teacher, Judge)
    assert isinstance(teacher, Demonstrator)


@pytest.mark.parametrize("levels", [2, 10])
def test_there_is_one_score_for_each_request_in_order(name, teacher, episodes, levels):
    requests = [
        ScoreRequest(episode, index, levels)
        for episode in episodes
        for index in range(len(episode.turns))
    ]
    if name in SERVED:  # nobody answers: every score is missing, none is made up
        requests = requests[:5]
    scores = teacher.score(requests)
    assert len(scores) == len(requests)
    for score in scores:
        if score.level is None:
            assert score.expected is None
            assert score.source == "missing"
        else:
            assert 0 <= score.level < levels
            assert 0 <= score.expected <= levels - 1
    if name not in SERVED:
        assert all(score.level is not None for score in scores)
        assert teacher.score(requests[::-1]) == scores[::-1]
    assert teacher.score([]) == []


def test_later_turns_are_not_looked_at(name, teacher, episodes):
    if name in SERVED:
        pytest.skip("nobody answers")
    longest = max(episodes, key=lambda episode: len(episode.turns))
    scenario, _ = make_scenario(ENV, max_invalid=None, passages=200)
    cut = scenario.resume(longest, 1)
    assert teacher.score([ScoreRequest(longest, 0)]) == teacher.score([ScoreRequest(cut, 0)])


def test_its_demonstrations_end(name, teacher):
    if name in SERVED:
        pytest.skip("nobody answers")
    scenario, tasks = make_scenario(ENV, teacher=teacher, passages=200)
    shown = scenario.demonstrate(tasks[:10])
    assert all(episode.done for episode in shown)
    assert sum(episode.exact_match for episode in shown) == 10


def test_its_record_finds_it_again(name):
    choice = TEACHERS.choose({"name": name, **OPTIONS.get(name, {})})
    assert TEACHERS.choose(choice.record()).record() == choice.record()
