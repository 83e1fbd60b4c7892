"""The batched environment: one search and one teacher call a step, equal to single ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

import ovd_envs  # noqa: F401 (registers the ids)
from ovd_envs.env import TextEnv, TextVectorEnv
from ovd_envs.episode import Episode, Task
from ovd_envs.webqa import WebQA

Make = Callable[..., WebQA]
WRONG = "<answer>-7</answer>"
ACTIONS = (
    "<search>What is {}?</search>",
    "<think>é\ud800</think>",
    "words",
    "<answer>the {}</answer>",
)


def act(row: int, step: int) -> str:
    """Sub-environments end at different times, answered and truncated, right and wrong."""
    kind = 2 if row == 0 else (row * 7 + step * step + step // 3) % 4
    return ACTIONS[kind].format((row + step) % 20)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_equal_to_single_environments(webqa: Make, tasks: list[Task], mode: AutoresetMode) -> None:
    count = 8
    singles = SyncVectorEnv(
        [lambda: TextEnv(webqa(reward="mixed"), tasks)] * count, autoreset_mode=mode
    )
    vector = TextVectorEnv(webqa(reward="mixed"), tasks, count, autoreset_mode=mode)
    assert data_equivalence(vector.reset(seed=40), singles.reset(seed=40), exact=True)
    over, ends = np.zeros(count, dtype=bool), {"terminated": 0, "truncated": 0}
    for step in range(30):
        if mode == AutoresetMode.DISABLED and over.any():
            reset = vector.reset(options={"reset_mask": over})
            assert data_equivalence(reset, singles.reset(options={"reset_mask": over}), exact=True)
        actions = [act(row, step) for row in range(count)]
        result = vector.step(actions)
        assert data_equivalence(result, singles.step(actions), exact=True)
        over = result[2] | result[3]
        ends["terminated"] += result[2].sum()
        ends["truncated"] += result[3].sum()
    assert min(ends.values()) > 5


def test_stored_episodes_equal_those_of_single_environments(webqa: Make, tasks: list[Task]) -> None:
    vector = TextVectorEnv(webqa(), tasks, 3)
    vector.reset(seed=[9, 4, 9])
    vector.step(["<search>What is 3?</search>"] * 3)
    lines = vector.step([WRONG] * 3)[4]["ovd_episode"]
    for seed, line in zip((9, 4, 9), lines, strict=True):
        single = TextEnv(webqa(), tasks)
        single.reset(seed=seed)
        single.step("<search>What is 3?</search>")
        assert single.step(WRONG)[4]["ovd_episode"] == line
    assert lines[0] == lines[2] != lines[1]


def test_one_search_and_one_teacher_call_a_step(
    webqa: Make, tasks: list[Task], search: Any, teacher: Any
) -> None:
    env = TextVectorEnv(webqa(), tasks, 64)
    env.reset(seed=0)
    env.step(["<search>What is 3?</search>"] * 63 + [WRONG])
    env.step(["<search>What is 4?</search>"] * 64)
    # In the second step the last sub-environment is only begun again.
    assert (search.calls, teacher.calls) == ([63, 63], [64, 63])


def test_infos_are_arrays_with_masks(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2)
    _, infos = env.reset(seed=3, options={"task": [3, "t5"]})
    assert infos["task_id"].tolist() == ["t3", "t5"]
    assert infos["seed"].tolist() == [3, 4]
    _, rewards, terminated, truncated, infos = env.step(["<search>What is 3?</search>", WRONG])
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
    assert infos["verbal_score"].dtype == int
    assert [document["id"] for document in infos["documents"][0]] == ["p3", "x"]
    assert infos["documents"][1] == []
    assert infos["action_kind"].tolist() == ["search", "answer"]
    assert infos["_ovd_episode"].tolist() == [False, True]
    assert Episode.from_json(infos["ovd_episode"][1]).task == tasks[5]


def test_next_step_ignores_the_action_of_a_finished_episode(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 1)
    env.reset(seed=0)
    env.step([WRONG])
    [prompt], rewards, terminated, truncated, infos = env.step([None])  # type: ignore[list-item]
    assert prompt == env.episodes[0].prompt
    assert env.episodes[0].turns == []
    assert (rewards[0], terminated[0], truncated[0]) == (0.0, False, False)
    assert set(infos) == {"task_id", "_task_id", "seed", "_seed"}


def test_resets_choose_tasks_and_seeds(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2)
    assert env.reset(options={"task": "t7"})[1]["task_id"].tolist() == ["t7", "t7"]
    assert env.reset(seed=[5, None])[1]["seed"][0] == 5
    first = [env.reset(seed=1)[1], env.reset()[1]]
    assert data_equivalence(first, [env.reset(seed=1)[1], env.reset()[1]], exact=True)
    assert first[0]["seed"].tolist() != first[1]["seed"].tolist()


def test_clear_errors(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2, autoreset_mode="Disabled")
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step([WRONG] * 2)
    with pytest.raises(ValueError, match="all True at the first reset"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset()
    with pytest.raises(ValueError, match="1 actions: expected one for each of 2"):
        env.step([WRONG])
    with pytest.raises(TypeError, match="action is of type int: expected a str"):
        env.step([WRONG, 3])  # type: ignore[list-item]
    assert [episode.turns for episode in env.episodes] == [[], []]
    with pytest.raises(ValueError, match="seed has 3 entries"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True])})
    env.step([WRONG, "words"])
    with pytest.raises(ResetNeeded, match=r"in \[0\]"):
        env.step([WRONG] * 2)
    with pytest.raises(ValueError, match="num_envs=0"):
        TextVectorEnv(webqa(), tasks, 0)
    with pytest.raises(ValueError, match="render_mode='human': expected None or one of ansi"):
        TextVectorEnv(webqa(), tasks, 2, render_mode="human")


def test_rendering(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2, render_mode="ansi")
    env.reset(options={"task": [1, 2]})
    env.step(["words", WRONG])
    texts = env.render()
    assert texts is not None
    assert "What is 1?" in texts[0]
    assert "turn 1: invalid" in texts[0]
    assert "-7" in texts[1]


@pytest.mark.parametrize("env_id", ["ovd/WebQA-v0", "ovd/Math-v0"])
def test_make_vec_and_vector_wrappers(env_id: str) -> None:
    env = gymnasium.make_vec(env_id, num_envs=64)
    assert isinstance(env.unwrapped, TextVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env = DictInfoToList(RecordEpisodeStatistics(env))
    env.action_space.seed(0)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    observations, rewards, _, _, _ = env.step(env.action_space.sample())
    assert observations in env.observation_space
    assert rewards.shape == (64,)
    infos = env.step([WRONG] * 64)[4]
    assert [info["episode"]["l"] for info in infos] == [2] * 64
    assert all(Episode.from_json(info["ovd_episode"]).terminated for info in infos)


def test_make_vec_takes_the_autoreset_mode(tasks: list[Task], search: Any, teacher: Any) -> None:
    parts = {"tasks": tasks, "search": search, "teacher": teacher}
    env = gymnasium.make_vec("ovd/WebQA-v0", 2, autoreset_mode="SameStep", **parts)
    env = RecordEpisodeStatistics(env)
    env.reset(seed=0)
    observations, _, terminated, _, infos = env.step([WRONG, "words"])
    assert terminated.tolist() == [True, False]
    assert "Question" in observations[0]
    assert infos["final_obs"].tolist() == ["", None]
    assert infos["final_info"]["exact_match"][0] == 0.0
    assert infos["episode"]["l"].tolist() == [1, 0]
