"""Our environments as text environments of SkyRL."""

from __future__ import annotations

import pytest

pytest.importorskip("skyrl_gym", reason="make setup")
import skyrl_gym

from ovd_envs.errors import SearchUnavailable
from ovd_envs.integrations import skyrl
from tests.integrations.scripted import SCRIPT, SMALL, WEBQA, Failing, ours


def row_of(number=0):
    return list(skyrl.rows(WEBQA, **SMALL))[number]


def test_an_episode_is_that_of_gymnasium():
    row = row_of(4)
    env = skyrl_gym.make("ovd_webqa", env_config=SMALL, extras=row)
    messages, _ = env.init(row["prompt"])
    expected, info = ours(seed=0, task_id=row["task_id"])
    assert messages == row["prompt"] == [{"role": "user", "content": expected[0][0]}]
    for action, (observation, reward, score) in zip(SCRIPT, expected[1:], strict=True):
        step = env.step(action)
        said = [message["content"] for message in step["observations"]]
        assert said == ([] if step["done"] else [observation])
        assert (step["reward"], step["metadata"]["verbal_score"]) == (reward, score)
    assert step["done"]
    metrics = env.get_metrics()
    assert metrics["exact_match"] == info["exact_match"]
    assert (metrics["searches"], metrics["answered"]) == (2.0, 1.0)


def test_the_copies_of_a_group_play_the_same_task():
    row = row_of()
    envs = [skyrl_gym.make("ovd_webqa", env_config=SMALL, extras=row) for _ in range(2)]
    first, second = (env.init(row["prompt"])[0] for env in envs)
    assert first == second


def test_a_fault_is_not_paid():
    config = {**SMALL, "search": Failing()}
    env = skyrl_gym.make("ovd_webqa", env_config=config, extras=row_of())
    env.init([])
    with pytest.raises(SearchUnavailable):
        env.step(SCRIPT[0])


def test_an_unknown_task_is_one_sentence():
    with pytest.raises(ValueError, match="make the rows with the same options"):
        skyrl_gym.make("ovd_webqa", env_config=SMALL, extras={"task_id": "nobody"})


def test_mathematics_is_there_too():
    [row, *_] = skyrl.rows("ovd/Math-v0", count=2)
    env = skyrl_gym.make("ovd_math", env_config={"count": 2}, extras=row)
    assert row["env_class"] == "ovd_math"
    env.init(row["prompt"])
    assert env.step(f"<answer>{row['reward_spec']['ground_truth'][0]}</answer>")["reward"] == 1
