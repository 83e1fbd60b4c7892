"""The relatives of GRPO: their advantages, and groups that are sampled again."""

from __future__ import annotations

import numpy as np
import pytest

from ovd_agent.algorithms import choose_algorithm
from ovd_agent.algorithms.advantages import EPSILON
from ovd_agent.algorithms.dapo import DAPO
from ovd_agent.algorithms.luffy import LUFFY
from ovd_agent.algorithms.reinforce_pp import ReinforcePP
from ovd_agent.learner.rows import ADVANTAGE
from ovd_agent.losses.cispo_gradient import CISPOGradient
from ovd_agent.losses.sequence_gradient import SequenceGradient
from ovd_agent.rollouts.group import Group
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.trainer import Trainer
from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from tests.agent.test_algorithms import CONTEXT, trajectory

REWARDS = ([1.0, 0.0, 0.0, 0.5], [0.0, 0.0, 1.0, 1.0])


def groups():
    found = []
    for number, rewards in enumerate(REWARDS):
        task = Task(f"t{number}", "q", ("a",))
        samples = [trajectory([9], reward) for reward in rewards]
        for sample in samples:
            sample.episode.task = task
        found.append(Group(task, samples))
    return found


def advantages(algorithm) -> list[list[float]]:
    """Of each sample, from the rows of the algorithm."""
    made = groups()
    if hasattr(algorithm, "adapted"):
        algorithm = algorithm.adapted([s for group in made for s in group.samples], CONTEXT)
    return [
        [float(row.stream(ADVANTAGE)[row.has("pg")][0]) for row in algorithm.rows(group, CONTEXT)]
        for group in made
    ]


def expected_rloo(rewards):
    return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]


def test_leave_one_out_and_means():
    rloo = advantages(choose_algorithm("rloo").build())
    plain = advantages(choose_algorithm("dr_grpo").build())
    for found, mean_less, rewards in zip(rloo, plain, REWARDS, strict=True):
        assert found == pytest.approx(expected_rloo(rewards))
        assert mean_less == pytest.approx([r - np.mean(rewards) for r in rewards])


def test_reinforce_pp_divides_by_the_deviation_of_the_update():
    centred = [np.asarray(rewards) - np.mean(rewards) for rewards in REWARDS]
    scale = np.std(np.concatenate(centred), ddof=1) + EPSILON
    for found, own in zip(advantages(ReinforcePP()), centred, strict=True):
        assert found == pytest.approx((own / scale).tolist())
    every = np.concatenate(REWARDS)
    whole = (every - every.mean()) / (every.std(ddof=1) + EPSILON)
    found = [value for each in advantages(ReinforcePP(baseline="batch")) for value in each]
    assert found == pytest.approx(whole.tolist(), rel=1e-5)


def test_reinforce_pp_leaves_equal_rewards_alone():
    task = Task("t", "q", ("a",))
    group = Group(task, [trajectory([9], 1.0) for _ in range(4)])
    algorithm = ReinforcePP().adapted(group.samples, CONTEXT)
    assert not any(row.has(ADVANTAGE).any() for row in algorithm.rows(group, CONTEXT))


def test_names_have_the_ratio_that_they_stand_for():
    found = {name: choose_algorithm(name).build().losses[0] for name in ("gspo", "cispo", "dapo")}
    assert isinstance(found["gspo"], SequenceGradient)
    assert (found["gspo"].clip_low, found["gspo"].clip_high) == (3e-4, 4e-4)
    assert isinstance(found["cispo"], CISPOGradient)
    assert found["dapo"].clip_high == 0.28
    # An option of the command line changes one and leaves the others.
    changed = choose_algorithm({"name": "gspo", "policy": {"clip_low": 0.1}}).build().losses[0]
    assert isinstance(changed, SequenceGradient)
    assert (changed.clip_low, changed.clip_high) == (0.1, 4e-4)


def test_a_group_of_equal_rewards_is_sampled_again(tmp_path):
    """A student that never earns anything is asked again, as often as allowed."""
    config = TrainConfig(
        student="tiny",
        algorithm=DAPO(samples=2, resample=2),
        updates=1,
        tasks_per_update=3,
        eval_count=1,
        out=tmp_path / "run",
    )
    trainer = Trainer(config)
    metrics = trainer.step()
    assert metrics["resampled_groups"] == 6
    assert metrics["resampled_tokens"] > 0
    kept = metrics["student_tokens"] - metrics["resampled_tokens"]
    assert 0 < kept < metrics["student_tokens"]


def test_only_what_teaches_nothing_is_sampled_again(tmp_path, monkeypatch):
    config = TrainConfig(
        student="tiny",
        algorithm=DAPO(samples=2, resample=3),
        updates=1,
        tasks_per_update=3,
        eval_count=1,
        out=tmp_path / "run",
    )
    trainer = Trainer(config)
    asked: list[list[str]] = []
    first = trainer.parts.tasks[:3]

    def made(tasks, samples):
        assert samples == 2
        asked.append([task.id for task in tasks])
        # The first task differs at once, the second when it is asked again, the third never.
        rounds = len(asked)
        earned = {first[0].id: 1.0, first[1].id: float(rounds > 1), first[2].id: 0.0}
        return [
            Group(task, [trajectory([9], earned[task.id]), trajectory([9], 0.0)]) for task in tasks
        ]

    monkeypatch.setattr(trainer.collector, "_groups", made)
    found, figures = trainer.collector.play(first, 0)
    ids = [task.id for task in first]
    assert asked == [ids, ids[1:], ids[2:], ids[2:]]
    assert [group.task.id for group in found] == ids
    assert figures["resampled_groups"] == 4


def test_luffy_counts_the_demonstration_in_the_mean():
    task = Task("t", "q", ("a",))
    samples = [trajectory([9], reward) for reward in (1.0, 0.0, 0.0)]
    shown = trajectory([9], 1.0, author="teacher")
    for each in (*samples, shown):
        each.episode.task = task
    rows = LUFFY(samples=3).rows(Group(task, samples, [shown]), CONTEXT)
    assert [float(row.stream(ADVANTAGE)[row.has("pg")][0]) for row in rows[:3]] == [0.5, -0.5, -0.5]
    assert set(rows[3].stream("shaped")[rows[3].has("shaped")]) == {0.5}
    # Where all are right there is nothing to learn, from the demonstration neither.
    right = Group(task, [trajectory([9], 1.0) for _ in range(3)], [shown])
    for each in right.samples:
        each.episode.task = task
    assert not any(row.has("shaped").any() for row in LUFFY().rows(right, CONTEXT))


def test_bad_options_are_refused():
    with pytest.raises(OptionError, match="resample=-1"):
        DAPO(resample=-1)
