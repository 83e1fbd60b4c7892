"""What every algorithm keeps to, ours and the example's."""

from __future__ import annotations

import numpy as np
import pytest

from ovd_agent.algorithms import ALGORITHMS, choose_algorithm
from ovd_agent.algorithms.base import (
    Adaptive,
    Checked,
    Context,
    Continues,
    Measured,
    Needs,
    Stages,
    WithLosses,
    demonstrations_wanted,
)
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.references import FrozenModel
from ovd_agent.losses import loss_components
from ovd_agent.models import tiny_model
from ovd_agent.rollouts.continuations import Cut, continue_samples
from ovd_agent.rollouts.demonstrations import Demonstrations
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.ratings import rate_samples
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.calibration.players import careless, oracle, play
from ovd_envs.registry import make_scenario

OF_TOKENS = ("opd", "vopd", "opd_topk", "gkd", "sod", "opsd")
NAMES = [*(set(ALGORITHMS.names()) - set(OF_TOKENS)), "own_algorithm:RLOO"]
TAUGHT = [{"name": name, "teacher_model": "tiny"} for name in OF_TOKENS]
WITH_KL = [{"name": name, "policy": {"kl": 0.1}} for name in ("ovd", "grpo")]


@pytest.fixture(params=[*sorted(NAMES), *WITH_KL, *TAUGHT], ids=str)
def algorithm(request):
    return choose_algorithm(request.param).build()


@pytest.fixture(scope="module")
def played():
    """Trajectories of a task by shares of corrupted actions, as if a student had sampled them."""
    scenario, tasks = make_scenario("ovd/WebQA-v0", passages=200, count=8)
    model, tokenizer = tiny_model()
    rollout = Rollout(scenario, None, tokenizer, max_length=4000)

    def make(task, share, count, author="student"):
        player = careless(scenario, share) if share else oracle(scenario)
        trajectories = []
        for seed in range(count):
            [episode] = play(scenario, [task], player, seed)
            shown = rollout.tokenized(episode)
            if author == "student":
                for index, segment in enumerate(shown.segments):
                    if segment.author == "teacher":
                        where = slice(segment.start, segment.end)
                        shown.segments[index] = type(segment)(
                            "student", segment.start, segment.end, segment.turn
                        )
                        shown.logprobs[where] = [-1.0] * (segment.end - segment.start)
            trajectories.append(shown)
        return trajectories

    return tasks, make, model, tokenizer


def rows_of(algorithm, played, shares, *, demonstrated=True):
    tasks, make, _, tokenizer = played
    context = Context(0, 4, 10, tokenizer)
    algorithm = algorithm.at(0) if isinstance(algorithm, Stages) else algorithm
    count = algorithm.needs.samples
    groups = [
        Group(
            task,
            [each for share in shares for each in make(task, share, -(-count // len(shares)))][
                :count
            ],
        )
        for task in tasks[:3]
    ]
    chosen = algorithm
    if isinstance(algorithm, Adaptive):
        chosen = algorithm.adapted([s for group in groups for s in group.samples], context)
    for group in groups:
        wanted = demonstrations_wanted(chosen, group.samples)
        if demonstrated:
            group.demonstrations += make(group.task, 0.0, wanted, "teacher")
    if demonstrated and isinstance(chosen, Continues):
        cuts = [Cut(group, *each) for group in groups for each in chosen.cuts(group)]
        scenario, _ = make_scenario("ovd/WebQA-v0", passages=200, count=8)
        rollout = Rollout(scenario, None, tokenizer, max_length=4000)
        continue_samples(cuts, Demonstrations(scenario), rollout)
    if chosen.needs.verdicts:
        rate_samples(groups, Demonstrations(make_scenario("ovd/WebQA-v0", passages=200)[0]))
    rows = [row for group in groups for row in chosen.rows(group, context)]
    assert all(np.isfinite(value) for value in context.figures.values())
    return groups, rows


def losses_of(algorithm):
    return loss_components(algorithm.losses if isinstance(algorithm, WithLosses) else ())


def test_it_says_what_it_needs(algorithm):
    assert isinstance(algorithm.needs, Needs)
    assert algorithm.needs.samples >= 0
    if isinstance(algorithm, Checked):
        algorithm.check(10)


@pytest.mark.parametrize("shares", [(0.0,), (0.9,), (0.0, 0.9)], ids=["good", "bad", "mixed"])
def test_rows_check_themselves_and_train_only_what_was_written(algorithm, played, shares):
    groups, rows = rows_of(algorithm, played, shares)
    losses = losses_of(algorithm)
    _, _, model, _ = played
    for name, wants in algorithm.needs.references.items():
        FrozenModel(name, model).measure(rows, wants)
    known = {tuple(each.ids) for g in groups for each in (*g.samples, *g.demonstrations)}
    known |= {tuple(each.trajectory.ids) for g in groups for each in g.continuations}
    for row in rows:
        row.check(losses)
        assert tuple(row.ids) in known
        assert not (row.weighted(losses) & ~row.wrote("student", "teacher")).any()
        assert row.group in {group.task.id for group in groups}


def test_a_group_without_demonstrations_is_no_error(algorithm, played):
    _, rows = rows_of(algorithm, played, (0.9,), demonstrated=False)
    assert all(row.kind != "demonstration" for row in rows)


def test_the_learner_takes_its_rows(algorithm, played):
    _, _, _, tokenizer = played
    _, rows = rows_of(algorithm, played, (0.0, 0.9))
    model, _ = tiny_model()
    references = {name: tiny_model(seed=1)[0] for name in algorithm.needs.references}
    for name, wants in algorithm.needs.references.items():
        FrozenModel(name, references[name]).measure(rows, wants)
    if isinstance(algorithm, Measured):
        algorithm.measured(rows)
    learner = Learner(model, LearnerConfig(), losses=losses_of(algorithm), references=references)
    metrics = learner.update(rows)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["optimizer_steps"] > 0


def test_its_record_finds_it_again(algorithm):
    record = ALGORITHMS.choose(algorithm).record()
    assert ALGORITHMS.choose(record).record() == record
    assert ALGORITHMS.choose(record).build() == algorithm
