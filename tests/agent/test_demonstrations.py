"""Demonstrations: only what passes, the best of several tries, a pool that later runs use."""

import pytest

from ovd_agent.rollouts.demonstrations import DemonstrationConfig, Demonstrations
from ovd_envs.episode import VerbalScore
from ovd_envs.errors import OptionError
from ovd_envs.registry import make_scenario


class Teacher:
    """Answers right in the tries of `right`, after a detour or not, and scores by the try."""

    def __init__(self, right, scores=None):
        self.right, self.scores, self.played = right, scores or {}, []

    def act(self, episodes):
        self.played += [(episode.task.id, episode.seed) for episode in episodes]
        return [
            f"<answer>{e.task.answers[0] if e.seed in self.right else 'no idea'}</answer>"
            for e in episodes
        ]

    def score(self, requests):
        levels = (self.scores.get(request.episode.seed, 9) for request in requests)
        return [VerbalScore(level, float(level), "", "test") for level in levels]


@pytest.fixture
def setting():
    def make(teacher, **options):
        scenario, tasks = make_scenario("ovd/Math-v0", count=4, teacher=teacher)
        return Demonstrations(scenario, DemonstrationConfig(**options)), tasks

    return make


def test_a_wrong_demonstration_is_none(setting):
    demonstrator, tasks = setting(Teacher(right=()))
    assert demonstrator.demonstrate(tasks) == [None] * 4


def test_the_best_of_those_that_pass_is_used(setting):
    teacher = Teacher(right=(0, 2, 3), scores={0: 5, 1: 9, 2: 8, 3: 8})
    demonstrator, tasks = setting(teacher, attempts=4)
    assert [episode.seed for episode in demonstrator.demonstrate(tasks)] == [2] * 4
    demonstrator, tasks = setting(teacher, attempts=4, min_score=8.5)
    assert demonstrator.demonstrate(tasks) == [None] * 4  # right ones score too low


def test_equal_tasks_are_played_once_and_answered_in_order(setting):
    teacher = Teacher(right=(0,))
    demonstrator, tasks = setting(teacher)
    wanted = [tasks[2], tasks[0], tasks[2]]
    shown = demonstrator.demonstrate(wanted)
    assert [episode.task for episode in shown] == wanted
    assert len(teacher.played) == 2


def test_a_pool_serves_later_runs(setting, tmp_path):
    first, later = Teacher(right=(0,)), Teacher(right=())
    demonstrator, tasks = setting(first, pool=tmp_path / "pool")
    shown = demonstrator.demonstrate(tasks[:3])
    again, tasks = setting(later, pool=tmp_path / "pool")
    assert again.demonstrate(tasks) == [*shown, None]
    assert later.played == [(tasks[3].id, 0)]  # only what the pool lacks
    fixed, tasks = setting(later, pool=tmp_path / "pool", live=False)
    later.played.clear()
    assert fixed.demonstrate(tasks) == [*shown, None]
    assert later.played == []


def test_what_a_pool_holds_of_another_task_or_prompt_is_not_used(setting, tmp_path):
    demonstrator, tasks = setting(Teacher(right=(0,)), pool=tmp_path)
    demonstrator.demonstrate(tasks[:2])
    mine, other = (demonstrator._place(tmp_path, task) for task in tasks[:2])
    mine.write_bytes(other.read_bytes())
    offline, _ = setting(Teacher(right=()), pool=tmp_path, live=False)
    assert [episode is None for episode in offline.demonstrate(tasks[:2])] == [True, False]
    offline.scenario.prompt = lambda task: "Other words."
    assert offline.demonstrate(tasks[:2]) == [None, None]


def test_options_that_cannot_be_are_one_sentence():
    with pytest.raises(OptionError, match=r"attempts=0: expected at least 1"):
        DemonstrationConfig(attempts=0)
    with pytest.raises(OptionError, match=r"live=False needs demonstrations\.pool"):
        DemonstrationConfig(live=False)
