"""`gymnasium.make` and the single environment: contract, seeding, wrappers, clear errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import ovd_envs  # noqa: F401 (registers the ids)
from ovd_envs.env import TextEnv
from ovd_envs.episode import Episode, Task
from ovd_envs.scenario import TeacherError
from ovd_envs.webqa import WebQA

IDS = ("ovd/WebQA-v0", "ovd/Math-v0")
ROOT = Path(__file__).parents[2]
SEARCH, WRONG = "<search>What is 3?</search>", "<answer>-7</answer>"


@pytest.fixture
def env(webqa: Callable[..., WebQA], tasks: list[Task]) -> TextEnv:
    return TextEnv(webqa(), tasks)


@pytest.fixture
def make(tasks: list[Task], teacher: Any, search: Any) -> Callable[..., gymnasium.Env[str, str]]:
    """`gymnasium.make` on the tiny world."""

    def make(env_id: str, **options: Any) -> gymnasium.Env[str, str]:
        parts = {"tasks": tasks, "teacher": teacher}
        if "WebQA" in env_id:
            parts["search"] = search
        return gymnasium.make(env_id, **{**parts, **options})

    return make


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_has_nothing_to_say(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_passive_checker_is_silent_through_an_episode(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id)
        assert "PassiveEnvChecker" in str(env)
        env.reset(seed=1)
        for action in (env.action_space.sample(), "\ud800", "<think>x</think>", SEARCH):
            assert not any(env.step(action)[2:4])
        assert env.step(WRONG)[2:4] == (True, False)


@pytest.mark.parametrize("env_id", IDS)
def test_the_oracle_solves_the_built_in_tasks(env_id: str) -> None:
    scenario = gymnasium.make(env_id).unwrapped.scenario
    tasks = gymnasium.make(env_id, split="test").unwrapped.tasks
    shown = scenario.demonstrate(tasks[:30])
    assert np.mean([episode.exact_match for episode in shown]) > 0.9


def test_no_import_is_needed() -> None:
    code = "import gymnasium; print(gymnasium.make('ovd_envs:ovd/Math-v0').reset(seed=1)[1])"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_episode(env: TextEnv, tasks: list[Task]) -> None:
    prompt, info = env.reset(seed=5, options={"task": 3})
    assert tasks[3].prompt in prompt
    assert info == {"task_id": "t3", "seed": 5}

    observation, reward, terminated, truncated, info = env.step(SEARCH)
    assert observation.startswith("\n<information>\n[1] Title 3: It is the 3.\n[2] Noise")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["documents"][0] == {
        "id": "p3",
        "title": "Title 3",
        "text": "It is the 3.",
        "score": 3.1,
    }
    del info["documents"]
    assert info == {
        "verbal_score": len(SEARCH) % 10,
        "verbal_score_expected": len(SEARCH) % 10 + 0.25,
        "score_source": "rule",
        "action_kind": "search",
        "queries": ["What is 3?"],
    }

    observation, reward, terminated, truncated, info = env.step("<answer>the 3</answer>")
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert (info["action_kind"], info["queries"], info["documents"]) == ("answer", [], [])
    assert (info["exact_match"], info["f1"]) == (1.0, 1.0)
    assert Episode.from_json(info["ovd_episode"]) == env.episode


def test_truncation_is_not_termination(env: TextEnv) -> None:
    env.reset(seed=0)
    steps = [env.step("words") for _ in range(env.scenario.max_turns)]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(False, True)]
    assert steps[-1][4]["exact_match"] == 0.0


def test_same_seed_and_actions_same_bytes(env: TextEnv) -> None:
    def play(seed: int | None) -> str:
        env.reset(seed=seed)
        env.step(SEARCH)
        return env.step(WRONG)[4]["ovd_episode"]

    first = [play(123), play(None), play(None)]
    assert first == [play(123), play(None), play(None)]
    assert len({Episode.from_json(line).task.id for line in first}) > 1
    replayed = [play(Episode.from_json(line).seed) for line in first]
    assert replayed == first  # the seed in a record begins that episode again


@pytest.mark.parametrize("env_id", IDS)
def test_same_bytes_in_another_process(env_id: str) -> None:
    code = f"""if True:
        import gymnasium, ovd_envs
        env = gymnasium.make({env_id!r}, reward="mixed").unwrapped
        env.reset(seed=7)
        while not env.episode.done:
            env.step(env.scenario.teacher.act([env.episode])[0])
        print(env.episode.to_json())
    """
    command = [sys.executable, "-c", code]
    lines = {
        subprocess.run(
            command, capture_output=True, check=True, cwd=ROOT, env={**os.environ, **hashing}
        ).stdout
        for hashing in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert len(lines) == 1
    assert Episode.from_json(lines.pop().decode()).terminated


def test_every_task_is_drawn(env: TextEnv, tasks: list[Task]) -> None:
    env.reset(seed=0)
    assert {env.reset()[1]["task_id"] for _ in range(300)} == {task.id for task in tasks}


def test_choosing_a_task(env: TextEnv, tasks: list[Task]) -> None:
    own = Task("own", "Mine?", ("yes",))
    for choice, chosen in ((7, "t7"), (np.int64(7), "t7"), ("t9", "t9"), (own, "own")):
        assert env.reset(options={"task": choice})[1]["task_id"] == chosen
    for bad in (20, -1, "t99", 1.5):
        with pytest.raises(ValueError, match=r"options\['task'\]="):
            env.reset(options={"task": bad})
    with pytest.raises(ValueError, match="no option 'tsk'"):
        env.reset(options={"tsk": 1})


def test_stepping_without_an_episode(env: TextEnv) -> None:
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(WRONG)
    env.reset()
    env.step(WRONG)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(WRONG)


def test_an_action_must_be_text(env: TextEnv) -> None:
    env.reset()
    with pytest.raises(TypeError, match="action is of type int: expected a str"):
        env.step(3)  # type: ignore[arg-type]
    assert env.episode is not None
    assert env.episode.turns == []
    env.step(np.str_(SEARCH))
    assert type(env.episode.turns[0].action) is str


def test_scores_that_are_missing_are_minus_one(
    webqa: Callable[..., WebQA], tasks: list[Task], teacher: Any
) -> None:
    def fail(requests: object) -> Any:
        raise ConnectionError("down")

    for options, source in (({"teacher": None}, "none"), ({}, "missing")):
        env = TextEnv(webqa(missing_scores="mark", **options), tasks)
        teacher.score = fail
        env.reset()
        info = env.step(SEARCH)[4]
        assert (info["verbal_score"], info["verbal_score_expected"]) == (-1, -1.0)
        assert info["score_source"] == source
    env = TextEnv(webqa(), tasks)
    env.reset()
    with pytest.raises(TeacherError, match="down"):
        env.step(SEARCH)


def test_rendering(
    webqa: Callable[..., WebQA], tasks: list[Task], capsys: pytest.CaptureFixture[str]
) -> None:
    env = TextEnv(webqa(), tasks, render_mode="ansi")
    assert env.render() == ""
    env.reset(options={"task": 3})
    env.step(SEARCH)
    env.step("<answer>the 3</answer>")
    text = env.render()
    assert text is not None
    for part in ("What is 3?", "turn 1: search", "[1] Title 3", "turn 2: answer", "exact match 1"):
        assert part in text
    assert TextEnv(webqa(), tasks).render() is None
    assert capsys.readouterr().out == ""

    env = TextEnv(webqa(), tasks, render_mode="human")
    env.reset(options={"task": 3})
    env.step("\ud800 not for terminals")
    env.step("<answer>the 3</answer>")
    assert env.render() is None
    printed = capsys.readouterr().out
    assert printed.count("What is 3?") == 1
    assert r"\ud800 not for terminals" in printed
    assert "exact match 1" in printed


@pytest.mark.parametrize("env_id", IDS)
def test_standard_wrappers(make: Callable[..., Any], env_id: str) -> None:
    env = wrappers.RecordEpisodeStatistics(
        wrappers.TransformReward(make(env_id, max_turns=9), lambda reward: reward - 0.5)
    )
    env.reset(options={"task": Task("own", "What is 1+1?", ("2",))})
    env.step("words")
    info = env.step("<answer>-7</answer>")[4]
    assert info["episode"]["l"] == 2
    assert info["episode"]["r"] == -1.0
    assert Episode.from_json(info["ovd_episode"]).terminated

    env = make(env_id, max_episode_steps=2, max_turns=9)
    assert isinstance(env, wrappers.TimeLimit)
    with pytest.raises(ResetNeeded):
        env.step("words")  # OrderEnforcing
    env.reset()
    assert [env.step("words")[3] for _ in range(2)] == [False, True]

    stacked = wrappers.FrameStackObservation(make(env_id), 3, padding_type="zero")
    prompt = stacked.reset()[0][-1]
    assert stacked.step("words")[0][:2] == ("", prompt)


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("WebQA", {"colour": 1}, "ovd/WebQA-v0 has no option 'colour': expected one of tasks, "),
        ("Math", {"top_k": 1}, "ovd/Math-v0 has no option 'top_k'"),
        ("WebQA", {"teacher": "orcale"}, "teacher='orcale': expected 'oracle'"),
        ("WebQA", {"search": 3}, "search=3: expected an index folder"),
        ("WebQA", {"tasks": []}, r"tasks=\[\]: expected"),
        ("Math", {"tasks": [1, 2]}, r"tasks=\[1, 2\]: expected"),
        ("WebQA", {"reward": "gold"}, "reward='gold'"),
        ("WebQA", {"max_turns": "5"}, "max_turns='5': expected an integer"),
        ("Math", {"max_turns": 0}, "max_turns=0: expected at least 1"),
        ("Math", {"score_levels": 1}, "score_levels=1"),
        ("WebQA", {"hops": 2}, "hops=2: expected a list of integers"),
        ("WebQA", {"tasks": None, "hops": [7]}, "hops="),
        ("WebQA", {"tasks": None, "split": "dev"}, "split='dev'"),
        ("Math", {"tasks": None, "split": "dev"}, "split='dev'"),
        ("Math", {"tasks": None, "levels": [0]}, "levels="),
        ("WebQA", {"tasks": None, "passages": 0}, "passages=0"),
        ("WebQA", {"missing_scores": "no"}, "missing_scores='no'"),
        ("WebQA", {"tasks": "a.jsonl", "search": None}, r"a file \(a.jsonl\) need search="),
        ("Math", {"tasks": "/nowhere/a.jsonl"}, "/nowhere/a.jsonl"),
        ("WebQA", {"search": "/nowhere/index"}, "/nowhere/index"),
        ("WebQA", {"render_mode": "rgb_array"}, "render_mode='rgb_array': expected None"),
    ],
)
def test_bad_input_is_named(
    make: Callable[..., Any], env_id: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=message) as caught:
        make(f"ovd/{env_id}-v0", **options)
    assert "\n" not in str(caught.value)


def test_tasks_from_a_file(make: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"id": "q", "question": "What is 3?", "answers": ["the 3"]}) + "\n")
    env = make("ovd/WebQA-v0", tasks=path)
    assert env.reset()[1]["task_id"] == "q"
    assert env.step(SEARCH)[4]["documents"][0]["id"] == "p3"
    assert env.step("<answer>the 3</answer>")[1] == 1.0
