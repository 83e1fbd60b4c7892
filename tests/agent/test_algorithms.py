"""The rules by which trajectories become rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_agent.algorithms.advantages import group_advantages, score_to_go
from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.algorithms.sft import SFT
from ovd_agent.group import DemonstrationError, Group, reject_and_replace
from ovd_agent.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn, VerbalScore

TASK = Task("t", "q", ("a",))


def trajectory(scores: list[int | None], reward: float, author="student", token=7) -> Trajectory:
    """A trajectory of two tokens a turn, with these step scores and this return."""
    turns = [
        Turn("x", "search", "x", score=VerbalScore(level, level, source="test")) for level in scores
    ]
    for turn in turns:
        turn.reward = 0.0
    turns[-1].reward = reward
    result = Trajectory(Episode(TASK, "p", turns=turns, terminated=True, exact_match=reward))
    result.append("prompt", [1, 2, 3], -1)
    for index in range(len(turns)):
        logprobs = [-1.0, -2.0] if author == "student" else None
        result.append(author, [token, token + 1], index, logprobs)
        result.append("environment", [4, 5, 6], index)
    return result


def group(*samples: Trajectory, demonstrations: int = 0) -> Group:
    taught = [trajectory([9, 9], 1.0, "teacher", token=20) for _ in range(demonstrations)]
    return Group(TASK, list(samples), taught)


def test_group_advantages_equal_the_naive_loop():
    rewards = [1.0, 0.0, 0.5, 0.0]
    mean = sum(rewards) / 4
    std = (sum((r - mean) ** 2 for r in rewards) / 4) ** 0.5
    expected = [(r - mean) / (std + 1e-4) for r in rewards]
    np.testing.assert_allclose(group_advantages(rewards), expected, rtol=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_give_zero_advantage_and_no_nan(reward: float):
    assert np.abs(group_advantages([reward] * 5)).max() < 1e-9


def test_grpo_trains_student_tokens_only():
    rows = GRPO(samples=2).rows(group(trajectory([1, 1], 0.0), trajectory([9, 9], 1.0)))
    for row, sign in zip(rows, (-1, 1), strict=True):
        row.check()
        student = np.isin(row.ids, [7, 8])
        assert (row.pg == student).all()
        assert (np.sign(row.advantage) == sign * student).all()
        assert (row.ce == 0).all()
        np.testing.assert_array_equal(row.behaviour[student], [-1, -2, -1, -2])


def test_grpo_needs_a_group():
    with pytest.raises(ValueError, match="samples=1"):
        GRPO(samples=1)


def test_sft_imitates_teacher_tokens_only():
    (row,) = SFT().rows(group(demonstrations=1))
    assert (row.ce == np.isin(row.ids, [20, 21])).all()
    assert (row.pg == 0).all()


def test_ovd_accepts_at_the_threshold_and_replaces_below():
    samples = [trajectory([6, 8], 1.0), trajectory([6, 7], 0.0)]
    ovd = OVD(samples=2, threshold=7)
    assert [ovd.score(sample) for sample in samples] == [7.0, 6.5]
    assert ovd.demonstrations(samples) == 1
    rows = ovd.rows(group(*samples, demonstrations=1))
    assert [bool(row.pg.any()) for row in rows] == [True, False]
    assert [bool(row.ce.any()) for row in rows] == [False, True]


@pytest.mark.parametrize(("aggregate", "score"), [("mean", 5.0), ("min", 1.0), ("last", 9.0)])
def test_ovd_aggregates_step_scores(aggregate, score: float):
    assert OVD(aggregate=aggregate).score(trajectory([5, 1, 9], 1.0)) == score


def test_ovd_with_all_rejected_only_imitates():
    samples = [trajectory([0], 0.0) for _ in range(3)]
    ovd = OVD(samples=3, threshold=5)
    assert ovd.demonstrations(samples) == 1
    rows = ovd.rows(group(*samples, demonstrations=1))
    # Three equal demonstrations are one row that counts three times.
    (row,) = rows
    assert row.copies == 3
    assert set(row.ce) == {0.0, 1.0}
    assert not row.pg.any()


def test_ovd_with_none_rejected_is_grpo():
    samples = [trajectory([9], 0.0), trajectory([9], 1.0)]
    ovd, grpo = OVD(samples=2, threshold=5, divide_by_std=True), GRPO(samples=2)
    assert ovd.demonstrations(samples) == 0
    for mine, theirs in zip(ovd.rows(group(*samples)), grpo.rows(group(*samples)), strict=True):
        for name in ("pg", "ce", "advantage", "behaviour"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


def test_ovd_threshold_zero_accepts_all_and_beyond_the_scale_rejects_all():
    samples = [trajectory([level], 0.0) for level in range(10)]
    assert OVD(threshold=0).demonstrations(samples) == 0
    assert OVD(threshold=10).demonstrations(samples) == 1
    for threshold in (-1, 10.5):
        with pytest.raises(ValueError, match=r"expected 0 \(keep all\) to 10"):
            OVD(threshold=threshold)
    with pytest.raises(ValueError, match="to 5"):
        OVD(threshold=7, score_levels=5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.floats(0.05, 1), st.integers(0, 10))
def test_a_rising_threshold_accepts_the_best_and_no_more(levels, share, floor):
    samples = [trajectory([level], 0.0) for level in levels]
    theta = OVD(threshold=floor, accept_at_most=share).adapted(samples).threshold
    accepted = [level for level in levels if level >= theta]
    rejected = [level for level in levels if floor <= level < theta]
    assert theta >= floor
    if share == 1:
        assert theta == floor
    else:
        assert len(accepted) <= share * len(levels) or set(accepted) == {max(levels)}
    # The next lower score would have been too many.
    if rejected:
        assert len(accepted) + rejected.count(max(rejected)) > share * len(levels)


def test_a_rising_threshold_leaves_out_what_has_no_score():
    samples = [trajectory([None], 1.0), trajectory([4], 0.0), trajectory([6], 0.0)]
    assert OVD(threshold=0, accept_at_most=0.5).adapted(samples).threshold == 6
    assert OVD(threshold=3, accept_at_most=0.5).adapted(samples[:1]).threshold == 3
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="accept_at_most"):
            OVD(accept_at_most=share)


def test_an_unscored_sample_leaves_the_step():
    samples = [trajectory([None], 1.0), trajectory([9], 0.0)]
    ovd = OVD(samples=2, threshold=10)
    assert ovd.demonstrations(samples) == 1
    assert len(OVD(samples=2, threshold=5).rows(group(*samples))) == 1


def test_ratio_one_demonstrations_have_no_behaviour_policy():
    samples = [trajectory([9], 0.0), trajectory([0], 0.0)]
    ovd = OVD(samples=2, threshold=5, enter="ratio_one", statistics="mixture")
    student, teacher = ovd.rows(group(*samples, demonstrations=1))
    taught = np.isin(teacher.ids, [20, 21])
    assert (teacher.pg == taught).all()
    assert np.isnan(teacher.behaviour).all()
    assert (teacher.advantage[taught] > 0).all()
    assert (student.advantage[student.pg > 0] < 0).all()


def test_statistics_say_whose_rewards_are_the_baseline():
    samples = [trajectory([9], 1.0), trajectory([0], 0.0)]
    mixed = OVD(samples=2, threshold=5, statistics="mixture")
    own = OVD(samples=2, threshold=5, statistics="student")
    filled = group(*samples, demonstrations=1)
    # In the mixture both are right, so nothing is better than average; alone, the student's
    # accepted sample beats its own mean.
    assert mixed.rows(filled)[0].advantage.max() == 0
    assert own.rows(filled)[0].advantage.max() == pytest.approx(0.5)


def test_without_statistics_an_accepted_group_still_teaches():
    accepted = group(trajectory([9], 1.0), trajectory([9], 1.0))
    usual = OVD(samples=2, threshold=5).rows(accepted)
    assert not any(row.trained.any() for row in usual)
    plain = OVD(samples=2, threshold=5, statistics="none").rows(accepted)
    assert [row.advantage[row.pg > 0].min() for row in plain] == [1.0, 1.0]


def test_a_whole_group_replaced_by_one_demonstration_teaches_only_by_cross_entropy():
    """Taken literally, the paper's mixture has equal rewards here and no gradient at all."""
    samples = [trajectory([0], 0.0) for _ in range(4)]
    filled = group(*samples, demonstrations=1)
    literal = OVD(threshold=5, enter="ratio_one", statistics="mixture", divide_by_std=True)
    (row,) = literal.rows(filled)
    assert not row.trained.any()
    (against_itself,) = OVD(threshold=5, enter="ratio_one", statistics="student").rows(filled)
    assert against_itself.trained.any()
    assert (against_itself.advantage[against_itself.trained] == 1.0).all()
    (imitated,) = OVD(threshold=5).rows(filled)
    assert (imitated.trained.any(), imitated.copies) == (True, 4)


def test_shaped_demonstrations_have_their_own_stream():
    (row,) = OVD(samples=1, threshold=5, enter="shaped").rows(
        group(trajectory([0], 0.0), demonstrations=1)
    )
    assert (row.shaped == np.isin(row.ids, [20, 21])).all()
    assert not row.ce.any()
    assert not row.pg.any()


def test_the_score_can_be_the_reward():
    samples = [trajectory([9], 0.0), trajectory([6], 1.0)]
    by_score = OVD(samples=2, threshold=5, reward="score").rows(group(*samples))
    by_outcome = OVD(samples=2, threshold=5).rows(group(*samples))
    assert [row.advantage.max() > 0 for row in by_score] == [True, False]
    assert [row.advantage.max() > 0 for row in by_outcome] == [False, True]


def test_credit_by_step_is_the_mean_score_to_go_against_the_group():
    first, second = trajectory([9, 0], 0.0), trajectory([9, 9], 1.0)
    assert score_to_go(first, 10) == pytest.approx([0.5, 0.0])
    rows = OVD(samples=2, threshold=0, credit="step", reward="score").rows(group(first, second))
    found = [sorted(set(row.advantage[row.pg > 0].tolist())) for row in rows]
    # The baseline is the mean of the two scores, 0.5 and 1.
    assert found == [pytest.approx([-0.75, -0.25]), pytest.approx([0.25])]


def test_each_rejected_sample_is_replaced_where_there_is_a_demonstration():
    samples = [trajectory([level], 0.0) for level in (9, 3, 7, 0)]
    filled = group(*samples, demonstrations=1)
    mixed = reject_and_replace(filled, [9, 3, 7, 0], 7)
    assert mixed.kept == [samples[0], samples[2]]
    assert (mixed.replacements, mixed.unreplaced) == (filled.demonstrations * 2, [])
    failed = reject_and_replace(group(*samples), [9, 3, 7, 0], 7)  # the teacher's own play failed
    assert (failed.kept, failed.replacements) == (mixed.kept, [])
    assert failed.unreplaced == [samples[1], samples[3]]
    other = trajectory([9], 1.0, "teacher")
    other.episode = Episode(Task("other", "q", ("a",)), "p")
    with pytest.raises(DemonstrationError, match="of task 'other' cannot replace a sample of"):
        reject_and_replace(Group(TASK, samples, [other]), [9, 3, 7, 0], 7)


@pytest.mark.parametrize("statistics", ["student", "mixture", "none"])
def test_without_a_demonstration_only_accepted_samples_are_trained_on(statistics):
    kept, rejected = trajectory([9], 1.0), trajectory([0], 0.0)
    algorithm = OVD(samples=2, statistics=statistics)
    rows = algorithm.rows(group(kept, rejected))
    assert [row.ids for row in rows] == [kept.ids]
    assert algorithm.rows(group(rejected, rejected)) == []


def test_without_demonstrations_keeping_what_is_rejected_is_grpo():
    right, wrong = trajectory([9], 1.0), trajectory([0], 0.0)
    one = group(right, wrong, wrong, wrong)
    ours = OVD(samples=4, unreplaced="keep", divide_by_std=True).rows(one)
    theirs = GRPO(samples=4).rows(one)
    for row, expected in zip(ours, theirs, strict=True):
        assert row.ids == expected.ids
        np.testing.assert_allclose(row.pg * row.advantage, expected.pg * expected.advantage)
    assert [row.kind for row in ours] == ["student", *["rejected"] * 3]


def test_what_is_replaced_is_never_kept():
    samples = [trajectory([9], 1.0), trajectory([0], 0.0)]
    rows = OVD(samples=2, unreplaced="keep").rows(group(*samples, demonstrations=1))
    assert [row.kind for row in rows] == ["student", "demonstration"]


def test_an_unscored_sample_is_never_kept():
    rows = OVD(samples=2, unreplaced="keep").rows(group(trajectory([None], 1.0)))
    assert rows == []
