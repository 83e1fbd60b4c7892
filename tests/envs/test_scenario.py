"""The rules every scenario shares: turns, endings, rewards, and a teacher that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ovd_envs.episode import Episode, Task, VerbalScore
from ovd_envs.errors import EpisodeOverError, OptionError, SearchUnavailable, TeacherUnavailable
from ovd_envs.scenarios.webqa import WebQA
from ovd_envs.teachers.base import ScoreRequest

Make = Callable[..., WebQA]
THINK, WRONG = "<think>hm</think>", "<answer>nobody</answer>"


class BrokenTeacher:
    """Scores the first request of a call and fails at the others, or fails altogether."""

    def __init__(self, *, altogether: bool) -> None:
        self.altogether = altogether

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        if self.altogether:
            raise ConnectionError("connection refused")
        down = [VerbalScore.missing("overloaded")] * (len(requests) - 1)
        return [VerbalScore(9, 8.5, "", "half"), *down]

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        raise NotImplementedError


def play(scenario: WebQA, task: Task, *actions: str) -> Episode:
    [episode] = scenario.begin([task])
    for action in actions:
        scenario.advance([episode], [action])
    return episode


def test_search_then_answer(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(), tasks[3], "<search>What is 3?</search>", "<answer>The 3!</answer>")
    assert [turn.kind for turn in episode.turns] == ["search", "answer"]
    assert [document.id for document in episode.turns[0].documents] == ["p3", "x"]
    assert "[1] Title 3: It is the 3." in episode.turns[0].observation
    assert "<answer>" not in episode.turns[0].observation
    assert episode.terminated
    assert not episode.truncated
    assert (episode.exact_match, episode.f1, episode.answer) == (1.0, 1.0, "The 3!")
    assert [turn.reward for turn in episode.turns] == [0.0, 1.0]


def test_one_search_call_and_one_teacher_call_serve_all(
    webqa: Make, tasks: list[Task], search: Any, teacher: Any
) -> None:
    scenario = webqa()
    episodes = scenario.begin(tasks[:4])
    queries = [f"<search>{task.prompt}</search>" for task in tasks[:2]]
    turns = scenario.advance(episodes, [queries[0], THINK, WRONG, queries[1]])
    assert (search.calls, teacher.calls) == ([2], [4])
    assert [len(turn.documents) for turn in turns] == [2, 0, 0, 2]
    assert turns[3].documents[0].id == "p1"


def test_no_search_call_when_nobody_searches(webqa: Make, tasks: list[Task], search: Any) -> None:
    play(webqa(), tasks[0], THINK, WRONG)
    assert search.calls == []


@pytest.mark.parametrize("action", ["", "words", "<search>a", THINK, "\ud800", "<answer></answer>"])
def test_a_malformed_action_costs_a_turn_and_is_answered(
    webqa: Make, tasks: list[Task], action: str
) -> None:
    episode = play(webqa(max_turns=2), tasks[0], action)
    assert not episode.done
    assert "Invalid action" in episode.turns[0].observation
    assert "<search>query</search>" in episode.turns[0].observation


def test_truncated_at_max_turns(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(max_turns=2), tasks[0], THINK, THINK)
    assert episode.truncated
    assert not episode.terminated
    assert (episode.exact_match, episode.f1, episode.answer) == (0.0, 0.0, None)


def test_an_answer_on_the_last_turn_counts(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(max_turns=2), tasks[1], THINK, "<answer>the 1</answer>")
    assert episode.terminated
    assert not episode.truncated
    assert episode.exact_match == 1.0


def test_truncated_when_the_text_is_too_long(webqa: Make, tasks: list[Task]) -> None:
    assert play(webqa(max_chars=1000), tasks[0], "x" * 1000).truncated
    assert not play(webqa(max_chars=5000), tasks[0], "x" * 1000).done


def test_truncation_from_outside_changes_no_finished_episode(
    webqa: Make, tasks: list[Task]
) -> None:
    scenario = webqa()
    over, running = play(scenario, tasks[0], "<answer>the 0</answer>"), play(scenario, tasks[0])
    scenario.truncate(over)
    scenario.truncate(running)
    assert (over.truncated, over.exact_match) == (False, 1.0)
    assert (running.truncated, running.exact_match) == (True, 0.0)


def test_a_finished_episode_can_not_go_on(webqa: Make, tasks: list[Task]) -> None:
    scenario = webqa()
    episode = play(scenario, tasks[0], WRONG)
    with pytest.raises(EpisodeOverError, match="episode of task 't0' is over"):
        scenario.advance([episode], [THINK])
    assert len(episode.turns) == 1


@pytest.mark.parametrize(
    ("reward", "expected"),
    # The rule teacher's levels are the actions' lengths mod 10: 7 of 9, then 2 of 9.
    [("outcome", [0.0, 1.0]), ("verbal", [0.0, 0.5]), ("mixed", [0.0, 1.5])],
)
def test_reward_modes(webqa: Make, tasks: list[Task], reward: str, expected: list[float]) -> None:
    actions = THINK, "<answer>the 0</answer>"
    assert [len(action) % 10 for action in actions] == [7, 2]
    episode = play(webqa(reward=reward, max_turns=4), tasks[0], *actions)
    assert [turn.reward for turn in episode.turns] == pytest.approx(expected)


def test_score_levels_scale_the_reward(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(reward="verbal", score_levels=5), tasks[0], THINK, WRONG)
    assert episode.turns[0].score == VerbalScore(2, 2.25, "by length", "rule")
    assert episode.turns[0].reward == 0.0
    assert episode.turns[1].reward == pytest.approx(sum(episode.levels) / 2 / 4)


@pytest.mark.parametrize("reward", ["verbal", "mixed"])
def test_without_an_answer_no_score_pays(webqa: Make, tasks: list[Task], reward: str) -> None:
    episode = play(webqa(reward=reward, max_turns=3), tasks[0], THINK, THINK, THINK)
    assert episode.truncated
    assert episode.levels == [7, 7, 7]
    assert [turn.reward for turn in episode.turns] == [0.0, 0.0, 0.0]


def test_no_teacher_no_score(webqa: Make, tasks: list[Task]) -> None:
    assert play(webqa(teacher=None), tasks[0], WRONG).turns[0].score is None


class BrokenSearch:
    def search(self, queries: Sequence[str], k: int) -> list[list[Any]]:
        raise TimeoutError("no answer in 5 s")


def test_a_failing_search_engine_fails_only_those_who_searched(
    webqa: Make, tasks: list[Task]
) -> None:
    scenario = webqa(search=BrokenSearch())
    episodes = scenario.begin(tasks[:3])
    with pytest.raises(
        SearchUnavailable, match=r"no answer in 5 s \(place 1 .* task 't1'"
    ) as caught:
        scenario.advance(episodes, [THINK, "<search>x</search>", WRONG])
    assert caught.value.failed == (1,)
    assert sorted(caught.value.turns) == [0, 2]
    assert [len(episode.turns) for episode in episodes] == [1, 0, 1]
    assert (episodes[2].end_reason, episodes[2].turns[0].reward) == ("answered", 0.0)


@pytest.mark.parametrize("engine", [BrokenSearch(), None])
def test_marked_faults_end_the_episode_and_are_neither_zero_nor_shown(
    webqa: Make, tasks: list[Task], engine: Any
) -> None:
    broken = {"search": engine} if engine else {"teacher": BrokenTeacher(altogether=True)}
    [episode] = webqa(on_error="mark", **broken).begin(tasks[:1])
    scenario = webqa(on_error="mark", **broken)
    [turn] = scenario.advance([episode], ["<search>x</search>"])
    assert (episode.truncated, episode.end_reason) == (True, "infrastructure")
    assert (episode.exact_match, turn.reward, turn.observation) == (None, None, "")
    assert turn.score is not None
    assert turn.score.source == "missing"
    assert Episode.from_json(episode.to_json()) == episode


def test_a_failing_teacher_leaves_every_episode_as_it_was(webqa: Make, tasks: list[Task]) -> None:
    scenario = webqa(teacher=BrokenTeacher(altogether=True))
    episodes = scenario.begin(tasks[:2])
    with pytest.raises(TeacherUnavailable, match="connection refused") as caught:
        scenario.advance(episodes, [WRONG, THINK])
    assert (caught.value.failed, caught.value.turns) == ((0, 1), {})
    assert episodes == scenario.begin(tasks[:2])


def test_one_missing_score_is_marked_where_it_pays_nothing(webqa: Make, tasks: list[Task]) -> None:
    scenario = webqa(teacher=BrokenTeacher(altogether=False))
    turns = scenario.advance(scenario.begin(tasks[:2]), [THINK, "<answer>the 1</answer>"])
    missing = turns[1].score
    assert missing is not None
    assert (missing.level, missing.source, missing.rationale) == (None, "missing", "overloaded")
    assert turns[1].reward == 1.0  # the outcome, which needs no score


def test_one_missing_score_fails_its_step_where_it_is_the_reward(
    webqa: Make, tasks: list[Task]
) -> None:
    scenario = webqa(teacher=BrokenTeacher(altogether=False), reward="verbal")
    with pytest.raises(TeacherUnavailable, match="overloaded") as caught:
        scenario.advance(scenario.begin(tasks[:2]), [THINK, THINK])
    assert (caught.value.failed, list(caught.value.turns)) == ((1,), [0])


@pytest.mark.parametrize("levels", [[], [3, 3], [10], [-1]])
def test_a_teacher_that_breaks_its_word_is_found_out(
    webqa: Make, tasks: list[Task], teacher: Any, levels: list[int]
) -> None:
    teacher.score = lambda requests: [VerbalScore(level, level, "", "odd") for level in levels]
    with pytest.raises(TeacherUnavailable, match=r"scores came for 1 steps|expected 0 to 9"):
        webqa().advance(webqa().begin(tasks[:1]), [THINK])


def test_a_replayed_episode_is_the_same(webqa: Make, tasks: list[Task]) -> None:
    scenario = webqa(max_turns=3)
    for actions in (("<search>What is 3?</search>", WRONG), (THINK, THINK, THINK), (THINK,)):
        episode = play(scenario, tasks[3], *actions)
        if not episode.done:
            scenario.truncate(episode)
        assert scenario.replay(Episode.from_json(episode.to_json())) == episode


def test_what_follows_the_deciding_tag_is_counted_and_not_read(
    webqa: Make, tasks: list[Task]
) -> None:
    episode = play(webqa(), tasks[0], "<answer>the 0</answer> <search>more</search>")
    assert (episode.exact_match, episode.turns[0].discarded_chars) == (1.0, 21)


def test_the_outcome_may_be_f1(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(outcome="f1"), tasks[0], "<answer>it is 0</answer>")
    assert episode.turns[0].reward == episode.f1 == pytest.approx(0.5)


def test_demonstrations_are_played_in_the_scenario(webqa: Make, tasks: list[Task]) -> None:
    shown = webqa().demonstrate(tasks[:3], [5, 6, 7])
    assert [episode.exact_match for episode in shown] == [1.0] * 3
    assert [episode.seed for episode in shown] == [5, 6, 7]
    assert all(turn.score is not None for episode in shown for turn in episode.turns)
    with pytest.raises(OptionError, match="needs a teacher"):
        webqa(teacher=None).demonstrate(tasks[:1])


@pytest.mark.parametrize(
    "options",
    [
        {"reward": "nonsense"},
        {"max_turns": 0},
        {"score_levels": 1},
        {"on_error": "ignore"},
        {"outcome": "bleu"},
        {"top_k": 0},
        {"reward": "verbal", "teacher": None},
    ],
)
def test_bad_options_are_named(webqa: Make, options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        webqa(**options)
