"""Rollouts keep ids exactly, whatever the number of slots; demonstrations are the teacher's."""

import copy
import threading
from collections import Counter
from dataclasses import replace

import pytest

from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.encoding import encode, encode_prompt
from ovd_agent.rollouts.rollout import Feedback, Rollout
from ovd_envs.episode import Episode, VerbalScore
from ovd_envs.errors import OptionError, SearchUnavailable
from ovd_envs.registry import make_scenario


def rollout(scenario, student, tokenizer, slots=8, max_length=640, max_new_tokens=8) -> Rollout:
    policy = TorchPolicy(student, tokenizer, slots=slots, max_length=max_length, seed=5)
    return Rollout(scenario, policy, tokenizer, slots, max_length, max_new_tokens)


def test_every_task_gets_its_trajectory_in_order(webqa, student, tokenizer):
    scenario, tasks = webqa
    played = rollout(scenario, student, tokenizer).play(tasks[:20])
    assert [each.episode.task.id for each in played] == [task.id for task in tasks[:20]]
    for trajectory in played:
        episode = trajectory.episode
        assert episode.done
        assert len(trajectory.ids) == len(trajectory.logprobs) <= 640
        ends = [segment.end for segment in trajectory.segments]
        assert ends[-1] == len(trajectory.ids)
        assert [0, *ends[:-1]] == [segment.start for segment in trajectory.segments]


def test_ids_of_every_span_are_those_of_the_text(webqa, student, tokenizer):
    scenario, tasks = webqa
    for trajectory in rollout(scenario, student, tokenizer).play(tasks[:6]):
        for segment in trajectory.segments:
            ids = trajectory.ids[segment.start : segment.end]
            turn = trajectory.episode.turns[segment.turn]
            if segment.author == "prompt":
                assert ids == encode_prompt(tokenizer, trajectory.episode.prompt)
            elif segment.author == "environment":
                assert ids == encode(tokenizer, turn.observation)
            else:
                assert turn.action == tokenizer.decode(ids, skip_special_tokens=True)
                assert all(
                    logprob < 0 for logprob in trajectory.logprobs[segment.start : segment.end]
                )


def test_greedy_episodes_do_not_depend_on_the_number_of_slots(webqa, student, tokenizer):
    scenario, tasks = webqa
    one, many = (
        rollout(scenario, student, tokenizer, slots=slots).play(tasks[:12], temperature=0)
        for slots in (1, 12)
    )
    assert [each.ids for each in one] == [each.ids for each in many]


def test_the_same_seed_plays_the_same_batch(webqa, student, tokenizer):
    scenario, tasks = webqa
    engine = rollout(scenario, student, tokenizer)
    runs = []
    for _ in range(2):
        engine.policy.weights_changed(0)  # as in each update: nothing is cached
        engine.policy.seed(11)
        runs.append([(each.ids, each.logprobs) for each in engine.play(tasks[:12])])
    assert runs[0] == runs[1]


def test_a_full_context_truncates_the_episode(webqa, student, tokenizer):
    scenario, tasks = webqa
    prompt = max(len(encode(tokenizer, scenario.prompt(task))) for task in tasks[:4])
    for trajectory in rollout(scenario, student, tokenizer, max_length=prompt + 20).play(tasks[:4]):
        assert trajectory.episode.done
        assert len(trajectory.ids) <= prompt + 20
    with pytest.raises(ValueError, match=r"expected fewer than rollout\.max_length=10"):
        rollout(scenario, student, tokenizer, max_length=10).play(tasks[:1])


@pytest.mark.parametrize("name", ["webqa", "arithmetic"])
def test_demonstrations_are_the_oracles_own_right_episodes(name, request, student, tokenizer):
    scenario, tasks = request.getfixturevalue(name)
    engine = rollout(scenario, student, tokenizer)
    for trajectory in map(engine.tokenized, scenario.demonstrate(tasks)):
        assert trajectory.is_demonstration
        assert trajectory.episode.exact_match == 1.0
        assert {segment.author for segment in trajectory.written} == {"teacher"}
        restored = Episode.from_json(trajectory.episode.to_json())
        assert restored == trajectory.episode


def test_the_chat_template_is_for_the_first_prompt_only(webqa, student, tokenizer):
    scenario, tasks = webqa
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]\n"
    )
    (played,) = rollout(scenario, student, templated).play(tasks[:1])
    text = templated.decode(played.ids)
    assert text.startswith("[user] Answer the question.")
    assert text.count("[assistant]") == text.count("[user]") == 1


def test_overlap_plays_the_same_greedy_episodes(webqa, student, tokenizer):
    scenario, tasks = webqa
    engine = rollout(scenario, student, tokenizer)
    plain = engine.play(tasks[:20], temperature=0)
    engine.policy.weights_changed(0)
    engine.overlap = True
    overlapped = engine.play(tasks[:20], temperature=0)
    assert [each.ids for each in overlapped] == [each.ids for each in plain]
    assert [each.episode.turns for each in overlapped] == [each.episode.turns for each in plain]


def test_the_policy_generates_while_the_scenario_works(webqa, student, tokenizer, monkeypatch):
    scenario, tasks = webqa
    engine = rollout(scenario, student, tokenizer)
    engine.overlap = True
    generated, policy_ran = threading.Event(), []
    collect, advance = engine.policy.collect, scenario.advance

    def collecting(at_least=1):
        found = collect(at_least)
        if found:
            generated.set()
        return found

    def advancing(episodes, actions):
        if not policy_ran:  # the first step ends only when the policy has finished another turn
            generated.clear()
            policy_ran.append(generated.wait(60))
        return advance(episodes, actions)

    monkeypatch.setattr(engine.policy, "collect", collecting)
    monkeypatch.setattr(scenario, "advance", advancing)
    assert all(each.episode.done for each in engine.play(tasks[:8]))
    assert policy_ran == [True]


@pytest.mark.parametrize("overlap", [False, True])
def test_what_a_step_raises_is_raised(webqa, student, tokenizer, monkeypatch, overlap):
    scenario, tasks = webqa
    engine = rollout(scenario, student, tokenizer)
    engine.overlap = overlap

    def failing(episodes, actions):
        raise SearchUnavailable("gone")

    monkeypatch.setattr(scenario, "advance", failing)
    with pytest.raises(SearchUnavailable, match="gone"):
        engine.play(tasks[:8])


class AsksAgain:
    """Scores every step 0 until it has been tried `enough` times."""

    def __init__(self, enough):
        self.enough, self.seen = enough, Counter()

    def score(self, requests):
        scores = []
        for request in requests:
            place = request.episode.task.id, request.index
            self.seen[place] += 1
            level = 9 if self.seen[place] >= self.enough else 0
            scores.append(VerbalScore(level, float(level), "", "test"))
        return scores


@pytest.mark.parametrize(("enough", "tries", "plays"), [(1, 2, 1), (2, 2, 2), (3, 2, 3), (9, 2, 3)])
def test_a_step_that_the_teacher_turns_down_is_sampled_again(
    student, tokenizer, enough, tries, plays
):
    """At most `tries` times; what was taken back leaves no trace in ids or text."""
    teacher = AsksAgain(enough)
    scenario, tasks = make_scenario("ovd/WebQA-v0", count=6, passages=200, teacher=teacher)
    feedback = Feedback(threshold=5.0, tries=tries)
    played = replace(rollout(scenario, student, tokenizer), feedback=feedback).play(tasks)
    steps = sum(len(each.episode.turns) for each in played)
    assert set(teacher.seen.values()) == {plays}
    assert feedback.retried == steps * (plays - 1)
    for trajectory in played:
        assert trajectory.episode.done
        assert len(trajectory.ids) == len(trajectory.logprobs)
        for segment in trajectory.by("student"):
            ids = trajectory.ids[segment.start : segment.end]
            action = trajectory.episode.turns[segment.turn].action
            assert action == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("options", [{"tries": 0}, {"temperature": 0.0}])
def test_feedback_that_could_change_nothing_is_refused(options):
    with pytest.raises(OptionError, match="expected at least 1 try"):
        Feedback(**{"threshold": 5.0, "tries": 1} | options)
