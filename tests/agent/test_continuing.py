"""Kept beginnings and the teacher's ends: where they are cut, what they train, what they mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ovd_agent.algorithms.base import Context
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.algorithms.ovd_continue import OVDContinue
from ovd_agent.algorithms.ovd_rank import OVDRank, beginnings
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import ADVANTAGE, BEHAVIOUR
from ovd_agent.losses import loss_components
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.models import tiny_model as webqa_model
from ovd_agent.rollouts.continuations import Cut, continue_samples
from ovd_agent.rollouts.demonstrations import DemonstrationConfig, Demonstrations
from ovd_agent.rollouts.group import Continuation, Group
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from ovd_envs.errors import OptionError
from ovd_envs.registry import make_scenario
from ovd_envs.scenarios import WEBQA
from tests.agent.tiny import VOCABULARY, tiny_model

TASK = Task("t", "q", ("a",))
CONTEXT: Any = Context(0, 4, 10, None)


def sample(
    scores: list[int | None], *, right: bool = True, answered: bool = True, name: str = "x"
) -> Trajectory:
    """Turns of two tokens each, with these scores; the actions are told apart by `name`."""
    turns = []
    for index, level in enumerate(scores):
        score = (
            VerbalScore.missing("") if level is None else VerbalScore(level, float(level), "", "t")
        )
        last = answered and index + 1 == len(scores)
        kind: Any = "answer" if last else "search"
        action = name[min(index, len(name) - 1)] + str(index)
        turns.append(Turn(action, kind, action, score=score, reward=float(right) if last else 0.0))
    episode = Episode(TASK, "p", turns=turns, terminated=answered, truncated=not answered)
    episode.end_reason = "answered" if answered else "turn_limit"
    episode.exact_match = float(right and answered)
    found = Trajectory(episode)
    found.append("prompt", [1, 2, 3], -1)
    for index in range(len(turns)):
        found.append("student", [4 + index, 5 + index], index, [-1.0, -2.0])
        found.append("environment", [9], index)
    return found


@pytest.mark.parametrize(
    ("scores", "options", "cut"),
    [
        ([9, 9, 9], {}, None),
        ([9, 3, 9], {}, 1),
        ([3, 9, 9], {}, 0),
        ([9, None, 2], {}, 2),
        ([None, None], {}, None),
        ([9, 9, 1], {"right": False}, 2),
        ([9, 9], {"answered": False}, 1),  # good steps that lead nowhere
    ],
)
def test_the_first_step_below_the_threshold_is_cut(scores, options, cut):
    played = sample(scores, **options)
    assert OVDContinue().first_bad_turns([played]) == [cut]
    if cut is not None:
        assert OVDContinue(threshold=10.0).first_bad_turns([played]) == [
            min(t for t, score in enumerate(scores) if score is not None)
        ]
    assert OVDContinue(threshold=0.0).first_bad_turns([played]) == [None]


def test_a_group_says_from_where_nobody_succeeded():
    """Two begin alike, one of them succeeds: the other's error lies behind what they share."""
    right = sample([9, 9, 9], name="abc")
    alike = sample([9, 9, 1], name="abd", right=False)
    other = sample([9, 9, 1], name="xyz", right=False)
    found = OVDContinue(cut="group").first_bad_turns([right, alike, other])
    assert found == [None, 2, 0]
    assert OVDContinue(cut="score").first_bad_turns([right, alike, other]) == [None, 2, 2]


def test_the_best_beginnings_of_a_group_are_kept():
    good, fair, bad = sample([9, 9, 9]), sample([9, 5, 9]), sample([2, 2, 9])
    assert beginnings(fair) == pytest.approx([9, 7, 23 / 3])
    # Of nine beginnings the five best are worth 9, 9, 9, 9 and 7.67.
    assert OVDRank(keep=0.5).first_bad_turns([good, fair, bad]) == [None, 1, 0]
    assert OVDRank(keep=1.0, least=0.0).first_bad_turns([good, fair, bad]) == [None] * 3
    assert OVDRank().first_bad_turns([bad, bad]) == [0, 0]  # however bad the others are
    assert OVDRank().first_bad_turns([good, good]) == [None, None]
    assert OVDRank().first_bad_turns([sample([None])]) == [None]
    assert OVDRank().first_bad_turns([]) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: OVDContinue(replace_first=1.5),
        lambda: OVDContinue(samples=0),
        lambda: OVDContinue(threshold=11.0).check(10),
        lambda: OVDRank(keep=0.0),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(OptionError, match="expected"):
        make()


def continued(played: Trajectory, turn: int, reward: float = 1.0) -> Continuation:
    episode = Episode(TASK, "p", turns=[*played.episode.turns[:turn], Turn("z", "answer", "z")])
    episode.turns[-1].reward = reward
    whole = played.before(turn, episode)
    whole.append("teacher", [11, 12, 13], turn)
    return Continuation(played, turn, whole)


@pytest.mark.parametrize("prefix", ["leave", "own"])
def test_who_wrote_a_token_decides_what_it_trains(prefix):
    """The teacher's by cross-entropy; the kept ones keep their log-probabilities, untouched."""
    right, wrong = sample([9, 9]), sample([9, 1], right=False, name="yy")
    algorithm = OVDContinue(prefix=prefix)
    group = Group(TASK, [right, wrong])
    assert algorithm.cuts(group) == [(wrong, 1)]
    group.continuations.append(continued(wrong, 1))
    kept, taught = algorithm.rows(group, CONTEXT)
    losses = loss_components(algorithm.losses)
    for row in (kept, taught):
        row.check(losses)
    assert (kept.kind, taught.kind) == ("student", "continued")
    assert taught.has(CrossEntropy.weight).tolist() == taught.wrote("teacher").tolist()
    policy = taught.has(PolicyGradient.weight)
    if prefix == "leave":
        assert not policy.any()
        return
    assert policy.tolist() == taught.wrote("student").tolist()
    # Its own reward, 0, less the group's mean, 0.5; not what the teacher earned after it.
    assert taught.stream(ADVANTAGE)[policy].tolist() == [-0.5, -0.5]
    assert taught.stream(BEHAVIOUR)[policy].tolist() == [-1.0, -2.0]
    assert np.isnan(taught.stream(BEHAVIOUR)[~policy]).all()


def test_a_cut_before_the_first_step_is_a_whole_demonstration():
    """Continuing all-bad groups from the first step is replacing them: the same rows."""
    bad = [sample([1, 1], right=False), sample([2, 1], right=False, name="yy")]
    demonstration = continued(bad[0], 0).trajectory
    replaced = OVD(samples=2).rows(Group(TASK, bad, [demonstration]), CONTEXT)
    group = Group(TASK, bad, continuations=[continued(each, 0) for each in bad])
    [row] = OVDContinue().rows(group, CONTEXT)
    assert [row.copies, row.kind, row.ids] == [2, "demonstration", replaced[0].ids]
    for name, values in replaced[0].streams.items():
        np.testing.assert_array_equal(row.streams[name], values)


def test_an_all_good_group_is_on_policy():
    group = Group(TASK, [sample([9, 9]), sample([9, 8, 9])])
    assert OVDContinue().cuts(group) == []
    rows = OVDContinue().rows(group, CONTEXT)
    assert [row.kind for row in rows] == ["student", "student"]
    assert all(row.stream(ADVANTAGE)[row.wrote("student")].tolist() for row in rows)


def test_whole_demonstrations_first_then_continuations():
    algorithm = OVDContinue(replace_first=0.5)
    played = sample([9, 1], right=False)
    for update, turn in ((0, 0), (1, 0), (2, 1), (3, 1)):
        context: Any = Context(update, 4, 10, None)
        chosen = algorithm.adapted([played], context)
        assert chosen.cuts(Group(TASK, [played])) == [(played, turn)]
        assert context.figures["acceptance_turn_1"] == 1.0
        assert context.figures["acceptance_turn_2"] == 0.0


def test_a_fault_is_neither_kept_nor_continued():
    played = sample([9, 9])
    played.episode.end_reason = "infrastructure"
    group = Group(TASK, [played])
    assert OVDContinue().cuts(group) == []
    assert OVDContinue().rows(group, CONTEXT) == []


@pytest.fixture(scope="module")
def webqa():
    scenario, tasks = make_scenario(WEBQA, passages=200, count=6, hops=(2,), max_turns=4, top_k=5)
    model, tokenizer = webqa_model()
    return scenario, tasks, Rollout(scenario, None, tokenizer, max_length=4000)


def wrong_at(webqa, task: Task, turn: int) -> Trajectory:
    """A play that is the oracle's up to `turn`, and then answers wrongly."""
    scenario, _, rollout = webqa
    [whole] = scenario.demonstrate([task])
    episode = scenario.resume(whole, turn)
    scenario.advance([episode], ["<answer>nobody</answer>"])
    found = Trajectory(episode)
    ids = rollout.tokenized(episode)
    for segment in ids.segments:
        span = ids.ids[segment.start : segment.end]
        author: Any = "student" if segment.author == "teacher" else segment.author
        found.append(
            author, span, segment.turn, [-1.0] * len(span) if author == "student" else None
        )
    return found


def test_every_wrong_play_is_repaired_from_its_first_bad_step(webqa):
    scenario, tasks, rollout = webqa
    for turn in (0, 1, 2):
        groups = [Group(task, [wrong_at(webqa, task, turn)]) for task in tasks]
        cuts = [Cut(group, *each) for group in groups for each in OVDContinue().cuts(group)]
        assert [cut.turn for cut in cuts] == [turn] * len(tasks)
        figures = continue_samples(cuts, Demonstrations(scenario), rollout)
        assert (figures["continued"], figures["repaired"]) == (len(tasks), 1.0)
        assert figures["kept_turns"] == turn
        for group in groups:
            [end] = group.continuations
            assert end.trajectory.episode.exact_match == 1.0
            kept = end.sample.before(turn, end.trajectory.episode)
            assert end.trajectory.ids[: len(kept.ids)] == kept.ids
            assert end.trajectory.logprobs[: len(kept.ids)] == pytest.approx(
                kept.logprobs, nan_ok=True
            )
            assert all(math.isnan(each) for each in end.trajectory.logprobs[len(kept.ids) :])
            assert {each.author for each in end.trajectory.segments if each.turn >= turn} == {
                "teacher",
                *(["environment"] if len(end.trajectory.episode.turns) > turn + 1 else []),
            }


def test_equal_beginnings_are_played_on_once(webqa):
    scenario, tasks, rollout = webqa
    played = [wrong_at(webqa, tasks[0], 1) for _ in range(3)]
    group = Group(tasks[0], played)
    before = scenario.costs.actions
    figures = continue_samples(
        [Cut(group, each, 1) for each in played], Demonstrations(scenario), rollout
    )
    assert figures["continued"] == 3
    assert figures["teacher_turns"] == scenario.costs.actions - before > 0
    assert len(OVDContinue().rows(group, CONTEXT)) == 1  # merged, and counted three times


class Fails:
    """A demonstrator that answers wrongly."""

    def act(self, episodes):
        return ["<answer>nobody</answer>"] * len(episodes)


def test_ends_that_are_wrong_or_too_long_are_left_out_and_counted(webqa):
    scenario, tasks, rollout = webqa
    group = Group(tasks[0], [wrong_at(webqa, tasks[0], 1)])
    cuts = [Cut(group, group.samples[0], 1)]
    shown = Demonstrations(scenario, DemonstrationConfig(), Fails())
    assert continue_samples(cuts, shown, rollout)["continuations_failed"] == 1
    short = Rollout(scenario, None, rollout.tokenizer, max_length=10)
    assert continue_samples(cuts, Demonstrations(scenario), short)["continuations_failed"] == 1
    assert group.continuations == []
    assert OVDContinue().rows(group, CONTEXT) == []


def test_a_pool_keeps_continuations_by_their_beginning(webqa, tmp_path):
    scenario, tasks, rollout = webqa
    config = DemonstrationConfig(pool=tmp_path)
    played = [wrong_at(webqa, tasks[0], turn) for turn in (0, 1)]
    shown = Demonstrations(scenario, config)
    starts = [scenario.resume(each.episode, turn) for turn, each in enumerate(played)]
    first = shown.complete(starts)
    before = scenario.costs.actions
    again = Demonstrations(scenario, DemonstrationConfig(pool=tmp_path, live=False)).complete(
        starts
    )
    assert scenario.costs.actions == before
    actions = [[turn.action for turn in each.turns] for each in first if each]
    assert actions == [[turn.action for turn in each.turns] for each in again if each]
    assert len(actions) == 2
    later = scenario.resume(first[0], 2)
    offline = Demonstrations(scenario, DemonstrationConfig(pool=tmp_path, live=False))
    assert offline.complete([later]) == [None]


def test_expected_gradient_by_enumeration():
    """Over every two-step play of a tiny vocabulary: accepted ones by their reward, the others by
    the teacher's end from before their first bad step."""
    model = tiny_model()
    learner = Learner(model, LearnerConfig(loss_per="rows"))
    algorithm = OVDContinue(samples=1)
    rng = torch.Generator().manual_seed(1)
    good = torch.rand(2, VOCABULARY, generator=rng) < 0.5
    rewards = torch.rand(VOCABULARY, generator=rng, dtype=torch.float64).tolist()
    prompt, end = [1, 2, 3], [5, 6]

    def logprobs_of(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def play(tokens: tuple[int, int]) -> tuple[Trajectory, list[int]]:
        levels = [9 if good[turn, token] else 1 for turn, token in enumerate(tokens)]
        turns = [
            Turn(
                str(token),
                "search",
                "x",
                score=VerbalScore(level, float(level), "", "t"),
                reward=0.0,
            )
            for token, level in zip(tokens, levels)
        ]
        turns[-1] = Turn(
            str(tokens[1]), "answer", "x", score=turns[-1].score, reward=rewards[tokens[1]]
        )
        episode = Episode(TASK, "p", turns=turns, terminated=True, end_reason="answered")
        found = Trajectory(episode)
        found.append("prompt", prompt, -1)
        return found, levels

    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        first = logprobs_of(prompt)[-1]
        second = [logprobs_of([*prompt, token])[-1] for token in range(VOCABULARY)]
    pairs = [(a, b) for a in range(VOCABULARY) for b in range(VOCABULARY)]
    chosen = pairs[::7]  # enough of them; the identity holds for each
    for a, b in chosen:
        played, levels = play((a, b))
        played.append("student", [a], 0, [float(first[a])])
        played.append("student", [b], 1, [float(second[a][b])])
        group = Group(TASK, [played])
        for each, turn in algorithm.cuts(group):
            whole = each.before(turn, each.episode)
            whole.append("teacher", end, turn)
            group.continuations.append(Continuation(each, turn, whole))
        model.zero_grad()
        learner.backward(algorithm.rows(group, CONTEXT))
        weight = float((first[a] + second[a][b]).exp())
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[name] += weight * parameter.grad

    model.zero_grad()
    total = torch.zeros(())
    for a, b in chosen:
        log_pi = logprobs_of(prompt)[-1][a] + logprobs_of([*prompt, a])[-1][b]
        chance = log_pi.detach().exp()
        if good[0, a] and good[1, b]:
            total = total - chance * rewards[b] * log_pi
        else:
            kept = [*prompt, a] if good[0, a] else prompt
            taught = logprobs_of(kept + end)[len(kept) - 1 : -1]
            total = total - chance * sum(taught[i, token] for i, token in enumerate(end))
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)
