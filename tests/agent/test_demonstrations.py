"""Demonstrations: only what passes, the best of several tries, a pool that later runs use."""

from multiprocessing import get_context

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


class Varied(Teacher):
    """Two right ways to say the answer, by the try: even and odd ones."""

    def act(self, episodes):
        self.played += [(episode.task.id, episode.seed) for episode in episodes]
        return [
            f"<think>{e.seed % 2}</think><answer>{e.task.answers[0]}</answer>" for e in episodes
        ]


def test_a_task_that_is_asked_for_again_gets_another_demonstration(setting):
    teacher = Varied(right=())
    demonstrator, tasks = setting(teacher)
    wanted = [tasks[2], tasks[0], tasks[2], tasks[2]]
    shown = demonstrator.demonstrate(wanted)
    assert [episode and episode.seed for episode in shown] == [0, 0, 1, None]  # there are but two
    assert [episode.task for episode in shown[:3]] == wanted[:3]
    assert sorted(teacher.played) == sorted(
        [(tasks[0].id, 0), *((tasks[2].id, seed) for seed in range(3))]
    )


def test_steps_are_scored_only_where_a_score_is_read(setting):
    teacher = Teacher(right=(0, 1))
    scored = []
    teacher.score = lambda requests: (
        scored.extend(requests) or [VerbalScore(9, 9.0, "", "test") for _ in requests]
    )
    demonstrator, tasks = setting(teacher)
    assert all(demonstrator.demonstrate(tasks))
    assert all(demonstrator.demonstrate(tasks, rewarded=True))  # the outcome, which needs no score
    assert scored == []
    assert all(demonstrator.demonstrate(tasks, scored=True))
    assert len(scored) == 4
    assert demonstrator.scenario.costs.scores == 4
    assert demonstrator.scenario.costs.actions == 12
    for options in ({"attempts": 2}, {"min_score": 1.0}):
        scored.clear()
        demonstrator, tasks = setting(teacher, **options)
        assert all(demonstrator.demonstrate(tasks))
        assert scored
    scenario, tasks = make_scenario("ovd/Math-v0", count=4, teacher=teacher, reward="verbal")
    [shown] = Demonstrations(scenario).demonstrate(tasks[:1], rewarded=True)
    assert [turn.reward for turn in shown.turns] == [1.0]


def test_one_demonstrates_and_another_judges(setting):
    judge, player = Teacher(right=(), scores={0: 4}), Teacher(right=(0,), scores={0: 9})
    scenario, tasks = make_scenario("ovd/Math-v0", count=2, teacher=judge)
    shown = Demonstrations(scenario, DemonstrationConfig(), player).demonstrate(tasks, scored=True)
    assert [episode.expected_scores for episode in shown] == [[4.0], [4.0]]
    strict = Demonstrations(scenario, DemonstrationConfig(min_score=5.0), player)
    assert strict.demonstrate(tasks) == [None, None]


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


def test_tasks_that_the_pool_lacks_can_be_left_out(setting, tmp_path):
    demonstrator, tasks = setting(Teacher(right=(0,)), pool=tmp_path / "pool")
    demonstrator.demonstrate([tasks[0], tasks[2]])
    assert demonstrator.chosen(tasks) == tasks
    later, tasks = setting(Teacher(right=()), pool=tmp_path / "pool", only=True)
    assert [task.id for task in later.chosen(tasks)] == [tasks[0].id, tasks[2].id]
    empty, tasks = setting(Teacher(right=()), pool=tmp_path / "empty", only=True)
    with pytest.raises(OptionError, match="has no demonstration of any of the 4 tasks"):
        empty.chosen(tasks)


def test_a_pool_keeps_no_score_of_another_judge(setting, tmp_path):
    """Each judge asks for its own least score."""
    generous, strict = Teacher(right=(0,), scores={0: 9}), Teacher(right=(), scores={0: 3})
    demonstrator, tasks = setting(generous, pool=tmp_path, min_score=5.0)
    assert all(demonstrator.demonstrate(tasks))
    assert all(setting(generous, pool=tmp_path, live=False, min_score=5.0)[0].demonstrate(tasks))
    later, tasks = setting(strict, pool=tmp_path, live=False, min_score=5.0)
    assert later.demonstrate(tasks) == [None] * 4
    later, tasks = setting(strict, pool=tmp_path, live=False)
    assert [episode.expected_scores for episode in later.demonstrate(tasks)] == [[]] * 4


def test_a_torn_file_of_a_pool_counts_as_empty_and_is_mended(setting, tmp_path, caplog):
    demonstrator, tasks = setting(Teacher(right=(0,)), pool=tmp_path)
    shown = demonstrator.demonstrate(tasks[:1])
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    fixed, _ = setting(Teacher(right=()), pool=tmp_path, live=False)
    assert fixed.demonstrate(tasks[:1]) == [None]
    assert "not an episode record" in caplog.text
    assert demonstrator.demonstrate(tasks[:1]) == shown
    assert file.read_bytes() == whole


def fill(pool, ready, go):
    scenario, tasks = make_scenario("ovd/Math-v0", count=40, teacher=Teacher(right=(0,)))
    ready.release()
    go.wait(60)
    for _ in range(5):
        Demonstrations(scenario, DemonstrationConfig(pool=pool)).demonstrate(tasks)


def test_processes_can_fill_one_pool(setting, tmp_path):
    context = get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    fillers = [context.Process(target=fill, args=(tmp_path, ready, go)) for _ in range(3)]
    for filler in fillers:
        filler.start()
    for _ in fillers:
        assert ready.acquire(timeout=60)
    go.set()
    for filler in fillers:
        filler.join(60)
        assert filler.exitcode == 0
    scenario, tasks = make_scenario("ovd/Math-v0", count=40, teacher=Teacher(right=()))
    config = DemonstrationConfig(pool=tmp_path, live=False)
    assert all(Demonstrations(scenario, config).demonstrate(tasks))
    assert len(list(tmp_path.iterdir())) == 40  # and nothing half-written


def test_what_a_pool_holds_of_another_task_or_prompt_is_not_used(setting, tmp_path):
    demonstrator, tasks = setting(Teacher(right=(0,)), pool=tmp_path)
    demonstrator.demonstrate(tasks[:2])
    mine, other = (
        demonstrator._place(tmp_path, each) for each in demonstrator.scenario.begin(tasks[:2])
    )
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
    with pytest.raises(OptionError, match=r"only needs demonstrations\.pool"):
        DemonstrationConfig(only=True)
