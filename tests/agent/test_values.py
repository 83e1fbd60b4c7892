"""Values that a small change of the code would alter without any error."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_algorithms import CONTEXT, TASK, group, make_ovd, trajectory

from ovd_agent.algorithms.rows import merged
from ovd_agent.policies.base import Completion
from ovd_agent.policies.sampling import _nucleus
from ovd_agent.rollouts.demonstrations import DemonstrationConfig, Demonstrations
from ovd_agent.rollouts.group import Group, reject_and_replace
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.runs.collect import Share
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.evaluate import pass_at
from ovd_agent.runs.metrics import describe
from ovd_agent.runs.trainer import Trainer
from ovd_envs.calibration.calibrate import Step, _high
from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from ovd_envs.errors import TeacherUnavailable
from ovd_envs.tasks.order import TaskDrawer
from ovd_envs.teachers.base import ScoreRequest


class Stop(Exception):
    pass


@pytest.fixture
def trainer(tmp_path):
    def make(**options):
        usual = {
            "env": {"name": "ovd/Math-v0", "count": 20, "levels": (1, 2), "max_turns": 3},
            "student": "tiny",
            "out": tmp_path / "run",
            "updates": 2,
            "tasks_per_update": 3,
            "eval_count": 3,
            "rollout": RolloutConfig(max_new_tokens=4, slots=8, max_length=900),
        }
        return Trainer(TrainConfig(**usual | options))

    return make


def test_a_group_holds_samples_of_one_task(trainer):
    made = trainer(algorithm={"name": "grpo", "samples": 3})
    groups, _ = made.collector.play(made.collector.tasks(0), 0)
    assert len(groups) == 3
    for each in groups:
        assert [sample.episode.task for sample in each.samples] == [each.task] * 3


def test_runs_updates_and_purposes_have_seeds_of_their_own(trainer):
    seeds = set()
    for seed, update, purpose in itertools.product((0, 1), (0, 1), ("sampling", "rows")):
        collector = trainer(seed=seed).collector
        seeds.add(collector.seed_for(purpose, update))
        collector.share = Share(1, 2)
        seeds.add(collector.seed_for(purpose, update))
    assert len(seeds) == 16
    tasks = [
        [task.id for task in trainer(seed=s).collector.tasks(u)] for s in (0, 1) for u in (0, 1)
    ]
    assert len({tuple(each) for each in tasks}) == 4


def test_training_samples_at_the_runs_temperature(trainer, monkeypatch):
    given = {}

    def play(self, tasks, **options):
        given.update(options)
        raise Stop

    monkeypatch.setattr(Rollout, "play", play)
    rollout = RolloutConfig(temperature=0.7, max_new_tokens=4, max_length=900)
    made = trainer(rollout=rollout)
    with pytest.raises(Stop):
        made.step()
    assert given["temperature"] == 0.7
    assert made.parts.learner.temperature == 0.7


def test_acceptance_is_a_share_of_samples_not_of_rows():
    samples = [trajectory([level], 0.0) for level in (9, 0, 0, 0)]
    one = group(*samples, demonstrations=1)
    rows = make_ovd(samples=4, baseline="none").rows(one, CONTEXT)
    assert [row.copies for row in rows] == [1, 3]
    assert describe([one], rows, 10)["acceptance"] == 0.25


def test_an_unscored_sample_is_in_no_baseline():
    scored = [trajectory([9], 1.0), trajectory([9], 0.0)]
    unscored = trajectory([None], 1.0)
    rows = make_ovd(samples=3, threshold=0).rows(group(*scored, unscored), CONTEXT)
    assert float(rows[0].stream("advantage").max()) == 0.5


def test_a_missing_step_score_is_left_out_of_the_mean():
    assert make_ovd().score(trajectory([9, None, 9], 1.0)) == 9.0
    assert make_ovd(aggregate="min").score(trajectory([9, None, 8], 1.0)) == 8.0


def test_demonstrations_replace_in_turn():
    samples = [trajectory([0], 0.0) for _ in range(3)]
    shown = [trajectory([9], 1.0, "teacher", token) for token in (20, 30)]
    mixed = reject_and_replace(Group(TASK, samples, shown), [0.0] * 3, 7)
    assert mixed.replacements == [shown[0], shown[1], shown[0]]


@pytest.mark.parametrize("loss", ["ratio_one", "cross_entropy", "shaped"])
def test_equal_demonstrations_count_as_often_as_they_replace(loss):
    samples = [trajectory([0], 0.0) for _ in range(3)]
    rows = make_ovd(samples=3, demonstration_loss=loss, baseline="student").rows(
        group(*samples, demonstrations=1), CONTEXT
    )
    assert [row.copies for row in rows] == [3]
    assert [row.copies for row in merged([replace(rows[0]), replace(rows[0])])] == [6]


@pytest.mark.parametrize("right", list(itertools.product([0, 1], repeat=4)))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(right):
    for k in (1, 2, 3, 4):
        subsets = list(itertools.combinations(right, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at(k, 4, sum(right)) == pytest.approx(expected)


def test_a_cached_answer_is_of_this_model_these_options_and_this_server():
    connection = pytest.importorskip("ovd_envs.llm.connection", reason="no httpx")
    forms = pytest.importorskip("ovd_envs.llm.forms")
    server = connection.Server("m", "http://h/v1", 1, 1.0, 1.0)
    wish = forms.Wish([{"role": "user", "content": "x"}], 4, 0.0, ("0", "1"), 0, ("a",))
    others = [(replace(server, **{name: "other"}), wish) for name in ("model", "base_url")]
    changes = {"max_tokens": 5, "temperature": 1.0, "choice": ("0",), "seed": 1, "stop": ()}
    others += [(server, replace(wish, **{name: value})) for name, value in changes.items()]
    others.append((server, replace(wish, messages=[{"role": "user", "content": "y"}])))
    keys = [connection._key(*each, "1") for each in [(server, wish), *others]]
    keys.append(connection._key(server, wish, "2"))  # of other prompts
    assert len(set(keys)) == len(keys) == 10
    # How long one waits changes no answer.
    assert connection._key(replace(server, try_seconds=9.0, concurrency=3), wish, "1") == keys[0]


def test_missing_scores_stop_a_run_right_beyond_the_limit():
    module = pytest.importorskip("ovd_envs.teachers.llm.teacher", reason="no httpx")
    teacher = module.LLMTeacher(module.LLMOptions("m", max_missing=0.2))
    request = ScoreRequest(Episode(TASK, "p", turns=[Turn("x", "answer", "x")]), 0)
    scores = iter(())

    async def answered(_):
        return VerbalScore(5, 5.0) if next(scores) else VerbalScore.missing("no")

    teacher._score = answered
    scores = iter([True] * 80 + [False] * 20)
    teacher.score([request] * 100)  # exactly a fifth
    scores = iter([False])
    with pytest.raises(TeacherUnavailable, match="21 of the last 101"):
        teacher.score([request])


def test_only_a_right_demonstration_passes():
    demonstrations = Demonstrations(None, DemonstrationConfig())
    for em, f1, passes in ((1.0, 1.0, True), (0.0, 0.9, False), (None, None, False)):
        episode = Episode(TASK, "p", exact_match=em, f1=f1)
        assert demonstrations._passes(episode) == passes


def test_episodes_of_an_environment_have_different_seeds():
    drawer = TaskDrawer([TASK], np.random.default_rng(0))
    assert len({drawer.draw(None, "task")[1] for _ in range(50)}) == 50


@pytest.mark.parametrize(("level", "high"), [(3, False), (4, False), (5, True), (9, True)])
def test_a_score_is_high_above_the_middle_of_its_scale(level, high):
    request = ScoreRequest(Episode(Task("t", "q", ("a",)), "p", turns=[Turn("x", "think", "x")]), 0)
    step = Step(request, "think", False)
    assert _high(VerbalScore(level, float(level)), step) == high


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    logprobs = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    for top_p, kept in ((0.5, 1), (0.50001, 2), (0.75, 2), (0.76, 3), (1.0, 4)):
        found = _nucleus(logprobs, torch.tensor([[top_p]], dtype=torch.float64))
        assert int(found.isfinite().sum()) == kept
        assert math.isclose(float(found.exp().sum()), 1.0)


def test_an_observation_that_just_fits_is_read_and_one_longer_is_not(webqa, student, tokenizer):
    """There must be room for one more token."""
    scenario, tasks = webqa
    search = "<search>who</search>"
    ids = tokenizer.encode(search, add_special_tokens=False)

    class Searches:
        version = 0

        def submit(self, key, context, sampling):
            self.key = key

        def collect(self, at_least=1):

            return [(self.key, Completion(list(ids), [-1.0] * len(ids), "stop", 0))]

        def release(self, key):
            pass

    whole = Rollout(scenario, Searches(), tokenizer, 1, 100_000, 64)
    [played] = whole.play(tasks[:1])
    first = next(s for s in played.segments if s.author == "environment")
    for room, fits in ((first.end + 1, True), (first.end, False)):
        cut = Rollout(scenario, Searches(), tokenizer, 1, room, 64)
        [episode] = cut.play(tasks[:1])
        assert any(s.author == "environment" for s in episode.segments) == fits
