"""The rules every scenario shares: turns, endings, rewards, and a teacher that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ovd_envs.episode import Episode, Task, VerbalScore
from ovd_envs.scenario import ScoreRequest, TeacherError
from ovd_envs.webqa import WebQA

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
    with pytest.raises(ValueError, match="episode of task 't0' is over"):
        scenario.advance([episode], [THINK])
    assert len(episode.turns) == 1


@pytest.mark.parametrize(
    ("reward", "expected"),
    # The rule teacher's levels are the actions' lengths mod 10: 7 of 9, then 2 of 9.
    [("outcome", [0.0, 1.0]), ("verbal", [7 / 9, 2 / 9]), ("mixed", [7 / 36, 1 + 2 / 36])],
)
def test_reward_modes(webqa: Make, tasks: list[Task], reward: str, expected: list[float]) -> None:
    actions = THINK, "<answer>the 0</answer>"
    assert [len(action) % 10 for action in actions] == [7, 2]
    episode = play(webqa(reward=reward, max_turns=4), tasks[0], *actions)
    assert [turn.reward for turn in episode.turns] == pytest.approx(expected)


def test_score_levels_scale_the_reward(webqa: Make, tasks: list[Task]) -> None:
    episode = play(webqa(reward="verbal", score_levels=5), tasks[0], THINK)
    assert episode.turns[0].score == VerbalScore(2, 2.25, "by length", "rule")
    assert episode.turns[0].reward == pytest.approx(2 / 4)


def test_no_teacher_no_score(webqa: Make, tasks: list[Task]) -> None:
    assert play(webqa(teacher=None), tasks[0], WRONG).turns[0].score is None


@pytest.mark.parametrize("altogether", [True, False])
def test_a_failing_teacher_raises(webqa: Make, tasks: list[Task], altogether: bool) -> None:
    scenario = webqa(teacher=BrokenTeacher(altogether=altogether))
    why = "connection refused" if altogether else "overloaded"
    with pytest.raises(TeacherError, match=why):
        scenario.advance(scenario.begin(tasks[:2]), [THINK, THINK])


@pytest.mark.parametrize(("altogether", "rewards"), [(True, [0.0, 0.0]), (False, [1.0, 0.0])])
def test_missing_scores_are_marked_and_pay_nothing(
    webqa: Make, tasks: list[Task], altogether: bool, rewards: list[float]
) -> None:
    teacher = BrokenTeacher(altogether=altogether)
    scenario = webqa(teacher=teacher, missing_scores="mark", reward="verbal")
    turns = scenario.advance(scenario.begin(tasks[:2]), [THINK, THINK])
    missing = turns[1].score
    assert missing is not None
    assert (missing.level, missing.expected, missing.source) == (None, None, "missing")
    assert missing.rationale == ("connection refused" if altogether else "overloaded")
    assert [turn.reward for turn in turns] == rewards


def test_demonstrations_are_played_in_the_scenario(webqa: Make, tasks: list[Task]) -> None:
    shown = webqa().demonstrate(tasks[:3], [5, 6, 7])
    assert [episode.exact_match for episode in shown] == [1.0] * 3
    assert [episode.seed for episode in shown] == [5, 6, 7]
    assert all(turn.score is not None for episode in shown for turn in episode.turns)
    with pytest.raises(TeacherError, match="needs a teacher"):
        webqa(teacher=None).demonstrate(tasks[:1])


@pytest.mark.parametrize(
    "options",
    [
        {"reward": "nonsense"},
        {"max_turns": 0},
        {"score_levels": 1},
        {"missing_scores": "ignore"},
        {"top_k": 0},
        {"reward": "verbal", "teacher": None},
    ],
)
def test_bad_options_are_named(webqa: Make, options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ValueError, match=name):
        webqa(**options)
