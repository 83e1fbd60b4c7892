"""The batched environment: one search and one teacher call a step, equal to single ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st

import ovd_envs  # noqa: F401 (registers the ids)
from ovd_envs.env import TextEnv
from ovd_envs.episode import Episode, Task
from ovd_envs.errors import SearchUnavailable
from ovd_envs.registry import make_scenario
from ovd_envs.scenarios.webqa import WebQA
from ovd_envs.spaces import ACTION_FORMS, UnicodeText
from ovd_envs.vector_env import TextVectorEnv

Make = Callable[..., WebQA]
ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
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
    lines = vector.step([WRONG] * 3)[4]["episode_record"]
    for seed, line in zip((9, 4, 9), lines, strict=True):
        single = TextEnv(webqa(), tasks)
        single.reset(seed=seed)
        single.step("<search>What is 3?</search>")
        assert single.step(WRONG)[4]["episode_record"] == line
    assert lines[0] == lines[2] != lines[1]


def test_one_search_and_one_teacher_call_a_step(
    webqa: Make, tasks: list[Task], search: Any, teacher: Any
) -> None:
    env = TextVectorEnv(webqa(), tasks, 64)
    env.reset(seed=0)
    env.step([f"<search>What is {n}?</search>" for n in range(63)] + [WRONG])
    env.step([f"<search>What is {n // 2}?</search>" for n in range(64)])
    # In the second step the last place is only begun again.
    assert (search.calls, teacher.calls) == ([63, 63], [64, 63])


def test_infos_are_arrays_with_masks(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2)
    _, infos = env.reset(seed=3, options={"tasks": ["t3", tasks[5]]})
    assert infos["task_id"].tolist() == ["t3", "t5"]
    _, rewards, terminated, truncated, infos = env.step(["<search>What is 3?</search>", WRONG])
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
    assert infos["verbal_score"].dtype == float
    assert [document["id"] for document in json.loads(infos["documents"][0])] == ["p3", "x"]
    assert infos["documents"][1] == "[]"
    assert infos["action_kind"].tolist() == ["search", "answer"]
    assert infos["_episode_record"].tolist() == [False, True]
    assert Episode.from_json(infos["episode_record"][1]).task == tasks[5]


def test_next_step_ignores_the_action_of_a_finished_episode(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 1)
    env.reset(seed=0)
    env.step([WRONG])
    [prompt], rewards, terminated, truncated, infos = env.step(["anything"])
    assert prompt == env.episodes[0].prompt
    assert env.episodes[0].turns == []
    assert (rewards[0], terminated[0], truncated[0]) == (0.0, False, False)
    assert set(infos) == {"task_id", "_task_id"}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_place_may_rest(webqa: Make, tasks: list[Task], mode: AutoresetMode) -> None:
    """A group of given tasks is played to its end, and nobody begins another episode."""
    env = TextVectorEnv(webqa(), tasks, 4, autoreset_mode=mode)
    env.reset(seed=0, options={"tasks": ["t1", "t2", "t3", "t4"]})
    played = list(env.episodes)
    for step in range(4):
        resting = [place for place in range(4) if played[place].done or place == step]
        before = [played[place].to_json() for place in resting]
        actions = [None if place in resting else act(place, step) for place in range(4)]
        if mode == AutoresetMode.SAME_STEP and step == 3:
            break  # what ended has begun again by then
        observations, rewards, _, _, infos = env.step(actions)
        for place, record in zip(resting, before):
            assert played[place].to_json() == record
            assert rewards[place] == 0
            assert not any(infos[name][place] for name in infos if name.startswith("_"))
            if env.episodes[place] is played[place]:
                last = played[place].turns[-1].observation if played[place].turns else None
                assert observations[place] == (played[place].prompt if last is None else last)
    if mode != AutoresetMode.SAME_STEP:
        assert all(one is other for one, other in zip(env.episodes, played))
        assert env.step([None] * 4)[2].tolist() == [episode.terminated for episode in played]


def test_attributes_and_methods_of_single_environments(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2, render_mode="ansi")
    assert env.get_attr("episode") == (None, None)
    env.reset(seed=0)
    assert env.get_attr("episode") == tuple(env.episodes)
    assert env.call("render") == env.render()
    assert env.call("tasks") == (tasks, tasks)
    with pytest.raises(ValueError, match=r"call\('step'\): use step\(\) of the vector"):
        env.call("step", WRONG)


def test_resets_choose_tasks_and_seeds(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2)
    options = {"tasks": ["t7", None]}
    assert env.reset(seed=[5, None], options=options)[1]["task_id"][0] == "t7"
    assert options == {"tasks": ["t7", None]}
    first = [env.reset(seed=1)[1], env.reset()[1]]
    assert data_equivalence(first, [env.reset(seed=1)[1], env.reset()[1]], exact=True)
    assert first[0]["task_id"].tolist() != first[1]["task_id"].tolist()
    mask = np.array([False, True])
    before = env.episodes[0]
    infos = env.reset(options={"reset_mask": mask, "tasks": ["t1", "t2"]})[1]
    assert (env.episodes[0], infos["task_id"][1]) == (before, "t2")
    assert mask.tolist() == [False, True]


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
    with pytest.raises(ValueError, match="expected a list with one entry for each place"):
        env.reset(options={"tasks": "t7"})
    env.step([WRONG, "words"])
    with pytest.raises(ResetNeeded, match=r"in \[0\]"):
        env.step([WRONG] * 2)
    with pytest.raises(ValueError, match="num_envs=0"):
        TextVectorEnv(webqa(), tasks, 0)
    with pytest.raises(ValueError, match="render_mode='human': expected None or one of ansi"):
        TextVectorEnv(webqa(), tasks, 2, render_mode="human")


def test_rendering(webqa: Make, tasks: list[Task]) -> None:
    env = TextVectorEnv(webqa(), tasks, 2, render_mode="ansi")
    env.reset(options={"tasks": ["t1", "t2"]})
    env.step(["words", WRONG])
    texts = env.render()
    assert texts is not None
    assert "What is 1?" in texts[0]
    assert "turn 1: invalid" in texts[0]
    assert "-7" in texts[1]


@pytest.mark.parametrize("env_id", ["ovd/WebQA-v0", "ovd/Math-v0"])
def test_make_vec_and_vector_wrappers(env_id: str) -> None:
    env = gymnasium.make_vec(env_id, num_envs=64, max_invalid=None)
    assert isinstance(env.unwrapped, TextVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env = DictInfoToList(RecordEpisodeStatistics(env))
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.action_space.sample() in env.action_space
    observations, rewards, _, _, _ = env.step(["words"] * 64)
    assert observations in env.observation_space
    assert rewards.shape == (64,)
    infos = env.step([WRONG] * 64)[4]
    assert [info["episode"]["l"] for info in infos] == [2] * 64
    assert all(Episode.from_json(info["episode_record"]).terminated for info in infos)


def test_make_vec_takes_the_autoreset_mode(tasks: list[Task], search: Any, teacher: Any) -> None:
    parts = {"tasks": tasks, "search": search, "teacher": teacher, "max_invalid": None}
    env = gymnasium.make_vec("ovd/WebQA-v0", 2, autoreset_mode="SameStep", **parts)
    env = RecordEpisodeStatistics(env)
    env.reset(seed=0)
    observations, _, terminated, _, infos = env.step([WRONG, "words"])
    assert terminated.tolist() == [True, False]
    assert "Question" in observations[0]
    assert infos["final_obs"].tolist() == ["", None]
    assert infos["final_info"]["exact_match"][0] == 0.0
    assert infos["episode"]["l"].tolist() == [1, 0]


class FlakySearch:
    """Fails every second call."""

    def __init__(self, search: Any) -> None:
        self.search_engine = search
        self.calls = 0

    def search(self, queries: Any, k: int) -> Any:
        self.calls += 1
        if self.calls % 2:
            raise ConnectionError("down")
        return self.search_engine.search(queries, k)


def test_after_a_fault_the_same_actions_lose_and_repeat_nothing(
    webqa: Make, tasks: list[Task], search: Any, teacher: Any
) -> None:
    env = TextVectorEnv(webqa(search=FlakySearch(search)), tasks, 3)
    twin = TextVectorEnv(webqa(), tasks, 3)
    actions = [WRONG, "<search>What is 3?</search>", "<think>x</think>"]
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(SearchUnavailable, match="down") as caught:
        env.step(actions)
    assert caught.value.failed == (1,)
    assert caught.value.turns[0] is env.episodes[0].turns[0]
    asked = sum(teacher.calls)
    result = env.step(actions)
    assert sum(teacher.calls) == asked + 1, "finished turns were scored again"
    assert data_equivalence(result, twin.step(actions), exact=True)
    assert data_equivalence(env.step(["x"] * 3), twin.step(["x"] * 3), exact=True)


def test_the_count_of_marked_faults_is_the_count_of_faults(
    webqa: Make, tasks: list[Task], search: Any
) -> None:
    engine = FlakySearch(search)
    scenario = webqa(search=engine, on_error="mark")
    env = TextVectorEnv(scenario, tasks, 4, autoreset_mode="SameStep")
    env.reset(seed=0)
    marked = 0
    for _ in range(20):
        _, rewards, _, truncated, _ = env.step(["<search>What is 3?</search>"] * 4)
        assert (np.isnan(rewards) == truncated).all()
        marked += int(np.isnan(rewards).sum())
    assert marked == 40


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1), st.sampled_from(list(AutoresetMode)), st.data())
def test_any_actions_give_the_same_in_the_scalar_and_the_vector_env(
    seed: int, mode: AutoresetMode, data: Any
) -> None:
    space = UnicodeText(seed=seed, forms=ACTION_FORMS)
    options = {"reward": "mixed", "passages": 200, "count": 20}
    scenario, tasks = make_scenario("ovd/WebQA-v0", **options)
    singles = SyncVectorEnv([lambda: TextEnv(scenario, tasks)] * 3, autoreset_mode=mode)
    vector = TextVectorEnv(scenario, tasks, 3, autoreset_mode=mode)
    assert data_equivalence(vector.reset(seed=seed), singles.reset(seed=seed), exact=True)
    for _ in range(8):
        actions = [data.draw(ANYTHING) if n == 0 else space.sample() for n in range(3)]
        result = vector.step(actions)
        assert data_equivalence(result, singles.step(actions), exact=True)
        over = result[2] | result[3]
        if mode == AutoresetMode.DISABLED and over.any():
            one, other = ({"reset_mask": over.copy()} for _ in range(2))
            assert data_equivalence(
                vector.reset(options=one), singles.reset(options=other), exact=True
            )


def test_gymnasiums_processes_work_without_shared_memory_and_refuse_it_clearly() -> None:
    makers = [lambda: gymnasium.make("ovd/Math-v0", count=20)] * 64
    with pytest.raises(TypeError, match="pass shared_memory=False to AsyncVectorEnv"):
        AsyncVectorEnv(makers[:1])
    envs = AsyncVectorEnv(makers, shared_memory=False)
    twin = gymnasium.make_vec("ovd/Math-v0", num_envs=64, count=20)
    try:
        assert envs.reset(seed=3)[0] == twin.reset(seed=3)[0]
        actions = ["<think>1+1=2</think>", WRONG] * 32
        for _ in range(3):
            one, other = envs.step(actions), twin.step(actions)
            assert one[0] == other[0]
            assert data_equivalence(one[1:4], other[1:4], exact=True)
    finally:
        envs.close()


def test_max_episode_steps_is_honoured() -> None:
    env = gymnasium.make_vec("ovd/Math-v0", num_envs=2, max_episode_steps=2, count=20)
    env.reset(seed=0)
    assert not env.step(["<think>x</think>"] * 2)[3].any()
    assert env.step(["<think>x</think>"] * 2)[3].all()
