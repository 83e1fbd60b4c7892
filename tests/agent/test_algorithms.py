"""The rules by which trajectories become rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_agent.algorithms.advantages import group_advantages, score_to_go
from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.ovd import OVD, Advantage
from ovd_agent.algorithms.ovd_continue import OVDContinue
from ovd_agent.algorithms.rows import PolicyTerm, imitation_row, merged
from ovd_agent.algorithms.schedules import ThetaSchedule
from ovd_agent.algorithms.sft import SFT
from ovd_agent.learner.references import Wants
from ovd_agent.losses import loss_components
from ovd_agent.rollouts.group import DemonstrationError, Group, reject_and_replace
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from ovd_envs.errors import OptionError

TASK = Task("t", "q", ("a",))


def trajectory(
    scores: list[int | None], reward: float, author="student", token=7, answered=True
) -> Trajectory:
    """A trajectory of two tokens a turn, with these step scores and this return."""
    turns = [
        Turn("x", "search", "x", score=VerbalScore(level, level, source="test")) for level in scores
    ]
    for turn in turns:
        turn.reward = 0.0
    turns[-1].reward = reward
    turns[-1].kind = "answer" if answered else "search"
    result = Trajectory(Episode(TASK, "p", turns=turns, terminated=True, exact_match=reward))
    result.append("prompt", [1, 2, 3], -1)
    for index in range(len(turns)):
        logprobs = [-1.0, -2.0] if author == "student" else None
        result.append(author, [token, token + 1], index, logprobs)
        result.append("environment", [4, 5, 6], index)
    return result


CONTEXT: Any = Context(0, 1, 10, None)
LOSSES = loss_components()


def make_ovd(**options: Any) -> OVD:
    """OVD with the mean of the student's samples as baseline, unless told otherwise."""
    own = {"reward": "outcome", "credit": "trajectory", "baseline": "student"}
    own = {name: options.pop(name, usual) for name, usual in own.items()}
    divide = options.pop("divide_by_std", False)
    return OVD(**options, advantage=Advantage(**own, divide_by_std=divide))


def group(*samples: Trajectory, demonstrations: int = 0) -> Group:
    taught = [trajectory([9, 9], 1.0, "teacher", token=20) for _ in range(demonstrations)]
    return Group(TASK, list(samples), taught)


def test_group_advantages_equal_the_naive_loop():
    rewards = [1.0, 0.0, 0.5, 0.0]
    mean = sum(rewards) / 4
    std = (sum((r - mean) ** 2 for r in rewards) / 3) ** 0.5  # n-1, as in TRL and verl
    expected = [(r - mean) / (std + 1e-4) for r in rewards]
    np.testing.assert_allclose(group_advantages(rewards), expected, rtol=1e-6)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_equal_rewards_give_zero_advantage_and_no_nan(reward: float):
    assert np.abs(group_advantages([reward] * 5)).max() < 1e-9


def test_grpo_trains_student_tokens_only():
    rows = GRPO(samples=2).rows(group(trajectory([1, 1], 0.0), trajectory([9, 9], 1.0)), CONTEXT)
    for row, sign in zip(rows, (-1, 1), strict=True):
        row.check(LOSSES)
        student = np.isin(row.ids, [7, 8])
        assert (row.stream("pg") == student).all()
        assert (np.sign(row.stream("advantage")) == sign * student).all()
        assert (row.stream("ce") == 0).all()
        np.testing.assert_array_equal(row.stream("behaviour")[student], [-1, -2, -1, -2])


def test_grpo_needs_a_group():
    with pytest.raises(ValueError, match="samples=1"):
        GRPO(samples=1)


def test_sft_imitates_teacher_tokens_only():
    (row,) = SFT().rows(group(demonstrations=1), CONTEXT)
    assert (row.stream("ce") == np.isin(row.ids, [20, 21])).all()
    assert (row.stream("pg") == 0).all()


def test_ovd_accepts_at_the_threshold_and_replaces_below():
    samples = [trajectory([6, 8], 1.0), trajectory([6, 7], 0.0)]
    ovd = make_ovd(samples=2, threshold=7)
    assert [ovd.score(sample) for sample in samples] == [7.0, 6.5]
    assert ovd.demonstrations(samples) == 1
    rows = ovd.rows(group(*samples, demonstrations=1), CONTEXT)
    assert [bool(row.stream("pg").any()) for row in rows] == [True, False]
    assert [bool(row.stream("ce").any()) for row in rows] == [False, True]


@pytest.mark.parametrize(("aggregate", "score"), [("mean", 5.0), ("min", 1.0), ("last", 9.0)])
def test_ovd_aggregates_step_scores(aggregate, score: float):
    assert make_ovd(aggregate=aggregate).score(trajectory([5, 1, 9], 1.0)) == score


def test_ovd_with_all_rejected_only_imitates():
    samples = [trajectory([0], 0.0) for _ in range(3)]
    ovd = make_ovd(samples=3, threshold=5)
    assert ovd.demonstrations(samples) == 1
    rows = ovd.rows(group(*samples, demonstrations=1), CONTEXT)
    # Three equal demonstrations are one row that counts three times.
    (row,) = rows
    assert row.copies == 3
    assert set(row.stream("ce")) == {0.0, 1.0}
    assert not row.stream("pg").any()


def test_ovd_with_none_rejected_is_grpo():
    samples = [trajectory([9], 0.0), trajectory([9], 1.0)]
    ovd, grpo = make_ovd(samples=2, threshold=5, divide_by_std=True), GRPO(samples=2)
    assert ovd.demonstrations(samples) == 0
    for mine, theirs in zip(
        ovd.rows(group(*samples), CONTEXT), grpo.rows(group(*samples), CONTEXT), strict=True
    ):
        for name in ("pg", "ce", "advantage", "behaviour"):
            np.testing.assert_array_equal(mine.stream(name), theirs.stream(name))


def test_ovd_threshold_zero_accepts_all_and_beyond_the_scale_rejects_all():
    samples = [trajectory([level], 0.0) for level in range(10)]
    assert make_ovd(threshold=0).demonstrations(samples) == 0
    assert make_ovd(threshold=10).demonstrations(samples) == 1
    with pytest.raises(ValueError, match=r"threshold=-1: expected 0 \(keep all\) or more"):
        make_ovd(threshold=-1)
    make_ovd(threshold=10).check(10)
    with pytest.raises(ValueError, match=r"expected 0 \(keep all\) to 10"):
        make_ovd(threshold=10.5).check(10)
    with pytest.raises(ValueError, match="to 5"):
        make_ovd(threshold=7).check(5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.floats(0.05, 1), st.integers(0, 10))
def test_a_rising_threshold_accepts_the_best_and_no_more(levels, share, floor):
    samples = [trajectory([level], 0.0) for level in levels]
    theta = make_ovd(threshold=floor, accept_at_most=share).adapted(samples, CONTEXT).threshold
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
    assert make_ovd(threshold=0, accept_at_most=0.5).adapted(samples, CONTEXT).threshold == 6
    assert make_ovd(threshold=3, accept_at_most=0.5).adapted(samples[:1], CONTEXT).threshold == 3
    for share in (0, 1.5):
        with pytest.raises(ValueError, match="accept_at_most"):
            make_ovd(accept_at_most=share)


def test_an_unscored_sample_leaves_the_step():
    samples = [trajectory([None], 1.0), trajectory([9], 0.0)]
    ovd = make_ovd(samples=2, threshold=10)
    assert ovd.demonstrations(samples) == 1
    assert len(make_ovd(samples=2, threshold=5).rows(group(*samples), CONTEXT)) == 1


def test_ratio_one_demonstrations_have_no_behaviour_policy():
    samples = [trajectory([9], 0.0), trajectory([0], 0.0)]
    ovd = make_ovd(samples=2, threshold=5, demonstration_loss="ratio_one", baseline="mixture")
    student, teacher = ovd.rows(group(*samples, demonstrations=1), CONTEXT)
    taught = np.isin(teacher.ids, [20, 21])
    assert (teacher.stream("pg") == taught).all()
    assert np.isnan(teacher.stream("behaviour")).all()
    assert (teacher.stream("advantage")[taught] > 0).all()
    assert (student.stream("advantage")[student.stream("pg") > 0] < 0).all()


def test_the_baseline_says_whose_rewards_are_the_baseline():
    samples = [trajectory([9], 1.0), trajectory([0], 0.0)]
    mixed = make_ovd(samples=2, threshold=5, baseline="mixture")
    own = make_ovd(samples=2, threshold=5, baseline="student")
    filled = group(*samples, demonstrations=1)
    # In the mixture both are right, so nothing is better than average; alone, the student's
    # accepted sample beats its own mean.
    assert mixed.rows(filled, CONTEXT)[0].stream("advantage").max() == 0
    assert own.rows(filled, CONTEXT)[0].stream("advantage").max() == pytest.approx(0.5)


def test_without_a_baseline_an_accepted_group_still_teaches():
    accepted = group(trajectory([9], 1.0), trajectory([9], 1.0))
    usual = make_ovd(samples=2, threshold=5).rows(accepted, CONTEXT)
    assert not any(row.trained(LOSSES).any() for row in usual)
    plain = make_ovd(samples=2, threshold=5, baseline="none").rows(accepted, CONTEXT)
    assert [row.stream("advantage")[row.stream("pg") > 0].min() for row in plain] == [1.0, 1.0]


def test_a_whole_group_replaced_by_one_demonstration_teaches_only_by_cross_entropy():
    """Taken literally, the paper's mixture has equal rewards here and no gradient at all."""
    samples = [trajectory([0], 0.0) for _ in range(4)]
    filled = group(*samples, demonstrations=1)
    literal = make_ovd(
        threshold=5, demonstration_loss="ratio_one", baseline="mixture", divide_by_std=True
    )
    (row,) = literal.rows(filled, CONTEXT)
    assert not row.trained(LOSSES).any()
    (against_itself,) = make_ovd(
        threshold=5, demonstration_loss="ratio_one", baseline="student"
    ).rows(filled, CONTEXT)
    assert against_itself.trained(LOSSES).any()
    assert (against_itself.stream("advantage")[against_itself.trained(LOSSES)] == 1.0).all()
    (imitated,) = make_ovd(threshold=5).rows(filled, CONTEXT)
    assert (imitated.trained(LOSSES).any(), imitated.copies) == (True, 4)


def test_shaped_demonstrations_have_their_own_stream():
    (row,) = make_ovd(samples=1, threshold=5, demonstration_loss="shaped").rows(
        group(trajectory([0], 0.0), demonstrations=1), CONTEXT
    )
    assert (row.stream("shaped") == np.isin(row.ids, [20, 21])).all()
    assert not row.stream("ce").any()
    assert not row.stream("pg").any()


def test_the_score_can_be_the_reward():
    samples = [trajectory([9], 0.0), trajectory([6], 1.0)]
    by_score = make_ovd(samples=2, threshold=5, reward="score").rows(group(*samples), CONTEXT)
    by_outcome = make_ovd(samples=2, threshold=5).rows(group(*samples), CONTEXT)
    assert [row.stream("advantage").max() > 0 for row in by_score] == [True, False]
    assert [row.stream("advantage").max() > 0 for row in by_outcome] == [False, True]


def test_credit_by_step_is_the_mean_score_to_go_against_the_group():
    first, second = trajectory([9, 0], 0.0), trajectory([9, 9], 1.0)
    assert score_to_go(first, 10) == pytest.approx([0.5, 0.0])
    rows = make_ovd(samples=2, threshold=0, credit="step", reward="score").rows(
        group(first, second), CONTEXT
    )
    found = [sorted(set(row.stream("advantage")[row.stream("pg") > 0].tolist())) for row in rows]
    # The baseline is the mean over all turns: 0.5, 0, 1, 1.
    assert found == [pytest.approx([-0.625, -0.125]), pytest.approx([0.375])]


@pytest.mark.parametrize("scores", [[[9, 9], [0, 9]], [[3], [4, 5, 6]], [[9, 0, 9], [2, 2, 2]]])
def test_credit_by_step_is_on_one_scale(scores):
    """Whatever the outcomes, the advantages of all turns of a group add up to nothing."""
    for rewards in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0)):
        samples = [trajectory(each, reward) for each, reward in zip(scores, rewards, strict=True)]
        rows = make_ovd(samples=2, threshold=0, credit="step", reward="score").rows(
            group(*samples), CONTEXT
        )
        # Two tokens a turn.
        assert sum(row.stream("advantage").sum() for row in rows) == pytest.approx(0, abs=1e-6)
    with pytest.raises(OptionError, match='credit="step" is a credit of scores'):
        Advantage(credit="step")


def test_without_an_answer_nothing_is_accepted_or_earned():
    """9, 9, 3 has the mean 7 and is no answer; so it is replaced, whatever the aggregate."""
    for scores in ([9, 9, 3], [9, 9, 9]):
        stalled = trajectory(scores, 0.0, answered=False)
        for aggregate in ("mean", "min", "last"):
            algorithm = make_ovd(samples=1, aggregate=aggregate, baseline="none", reward="score")
            assert algorithm.score(stalled) == 0.0
            assert algorithm.demonstrations([stalled]) == 1
            rows = algorithm.rows(group(stalled, demonstrations=1), CONTEXT)
            assert [row.kind for row in rows] == ["demonstration"]
        assert score_to_go(stalled, 10) == [0.0] * 3


def test_what_a_service_ended_is_left_out():
    """It has no reward, and says nothing of the student."""
    broken = trajectory([9, None], 0.0)
    broken.episode.turns[-1].reward = None
    broken.episode.end_reason = "infrastructure"
    good, bad = trajectory([9], 1.0), trajectory([9], 0.0)
    for algorithm in (GRPO(samples=3), make_ovd(samples=3, threshold=5)):
        whole = algorithm.rows(group(good, broken, bad), CONTEXT)
        without = algorithm.rows(group(good, bad), CONTEXT)
        for row, expected in zip(whole, without, strict=True):
            np.testing.assert_array_equal(row.stream("advantage"), expected.stream("advantage"))
    assert make_ovd().demonstrations([broken]) == 0


def test_scores_of_demonstrations_are_asked_for_where_they_are_read():
    def needs(**options):
        found = make_ovd(**options).needs
        return found.demonstration_scores, found.demonstration_rewards

    assert needs() == needs(reward="score") == (False, False)
    assert needs(baseline="mixture") == (False, True)
    assert needs(demonstration_loss="ratio_one") == (False, True)
    assert needs(baseline="mixture", reward="score") == (True, True)


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


@pytest.mark.parametrize("baseline", ["student", "mixture", "none"])
def test_without_a_demonstration_only_accepted_samples_are_trained_on(baseline):
    kept, rejected = trajectory([9], 1.0), trajectory([0], 0.0)
    algorithm = make_ovd(samples=2, baseline=baseline)
    rows = algorithm.rows(group(kept, rejected), CONTEXT)
    assert [row.ids for row in rows] == [kept.ids]
    assert algorithm.rows(group(rejected, rejected), CONTEXT) == []


def test_without_demonstrations_keeping_what_is_rejected_is_grpo():
    right, wrong = trajectory([9], 1.0), trajectory([0], 0.0)
    one = group(right, wrong, wrong, wrong)
    ours = make_ovd(samples=4, unreplaced="keep", divide_by_std=True).rows(one, CONTEXT)
    theirs = GRPO(samples=4).rows(one, CONTEXT)
    for row, expected in zip(ours, theirs, strict=True):
        assert row.ids == expected.ids
        np.testing.assert_allclose(
            row.stream("pg") * row.stream("advantage"),
            expected.stream("pg") * expected.stream("advantage"),
        )
    assert [row.kind for row in ours] == ["student", *["rejected"] * 3]


def test_what_is_replaced_is_never_kept():
    samples = [trajectory([9], 1.0), trajectory([0], 0.0)]
    rows = make_ovd(samples=2, unreplaced="keep").rows(group(*samples, demonstrations=1), CONTEXT)
    assert [row.kind for row in rows] == ["student", "demonstration"]


def test_an_unscored_sample_is_never_kept():
    rows = make_ovd(samples=2, unreplaced="keep").rows(group(trajectory([None], 1.0)), CONTEXT)
    assert rows == []


@pytest.mark.parametrize("kind", [OVD, GRPO])
def test_weight_and_kl_of_the_policy_term_reach_the_rows(kind):
    algorithm = kind(samples=2, policy=PolicyTerm(weight=0.5, kl=0.25, clip_high=0.4))
    rows = algorithm.rows(group(trajectory([9], 1.0), trajectory([9], 0.0)), CONTEXT)
    for row in rows:
        student = row.wrote("student")
        assert (row.stream("pg")[student] == 0.5).all()
        assert (row.stream("kl")[student] == 0.25).all()
        assert not row.stream("kl")[~student].any()
    assert algorithm.needs.references == {"start": Wants("kl")}
    assert kind(samples=2).needs.references == {}
    [component] = algorithm.losses
    assert component.clip_high == 0.4


def test_division_by_the_standard_deviation_is_an_option():
    samples = [trajectory([9], 1.0), trajectory([9], 1.0), trajectory([9], 0.0)]
    divided = GRPO(samples=3).rows(group(*samples), CONTEXT)
    plain = GRPO(samples=3, divide_by_std=False).rows(group(*samples), CONTEXT)
    assert [row.stream("advantage").max() for row in plain[:2]] == pytest.approx([1 / 3] * 2)
    assert divided[0].stream("advantage").max() == pytest.approx(
        (1 / 3) / np.std([1, 1, 0], ddof=1), rel=1e-3
    )


def test_what_several_rewards_add_up_to_is_the_return():
    sample = trajectory([9, 9, 9], 0.0)
    for turn, reward in zip(sample.episode.turns, (0.25, 0.5, 0.125), strict=True):
        turn.reward = reward
    assert sample.reward == 0.875


def test_copies_of_merged_demonstrations_are_added_up():
    shown = [imitation_row(trajectory([9], 1.0, "teacher", token=20)) for _ in range(3)]
    shown[1].copies = 4
    [row] = merged(shown)
    assert row.copies == 6


@pytest.mark.parametrize("make", [OVD, OVDContinue])
@pytest.mark.parametrize(("shape", "middle"), [("linear", 5.5), ("cosine", 5.5)])
def test_the_threshold_moves_over_the_updates(make, shape, middle):
    algorithm = make(threshold=3.0, schedule=ThetaSchedule(8.0, shape))
    found = []
    for update in range(5):
        context = Context(update, 5, 10, None)
        found.append(algorithm.adapted([], context).threshold)
        assert context.figures["threshold"] == found[-1]
    assert (found[0], found[2], found[4]) == pytest.approx((3.0, middle, 8.0))
    assert found == sorted(found)
    even = found[1] - found[0] == pytest.approx(1.25)
    assert even == (shape == "linear")
    with pytest.raises(OptionError, match=r"schedule\.end=11\.0: expected 0 to 10"):
        make(schedule=ThetaSchedule(11.0)).check(10)
