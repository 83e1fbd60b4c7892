"""Our environments by `gem.make`, in the environment of `make test-adapters`."""

from __future__ import annotations

import pytest

pytest.importorskip("reasoning_gym", reason="which GEM imports: make test-adapters")
import gem

from ovd_envs.errors import SearchUnavailable
from ovd_envs.integrations.gem import GemEnv, gem_id
from ovd_envs.registry import make_scenario
from tests.integrations.scripted import SCRIPT, SMALL, WEBQA, Failing, ours


def test_an_episode_is_that_of_gymnasium():
    env = gem.make(gem_id(WEBQA), **SMALL)
    observation, _ = env.reset(seed=3)
    expected, _ = ours(seed=3)
    found = [(observation, 0.0, None)]
    for action in SCRIPT:
        observation, reward, terminated, _, info = env.step(action)
        found.append((observation, reward, info["verbal_score_expected"]))
    assert found == expected
    assert terminated
    assert [info["use_tool"], info["parsed_action"]] == [False, SCRIPT[-1]]


def test_a_task_is_chosen_by_its_id():
    _, tasks = make_scenario(WEBQA, **SMALL)
    env = gem.make(gem_id(WEBQA), **SMALL)
    observation, _ = env.reset(task_id=tasks[5].id)
    assert tasks[5].prompt in observation


def test_a_fault_is_not_paid():
    env = gem.make(gem_id(WEBQA), search=Failing(), **SMALL)
    env.reset(seed=0)
    with pytest.raises(SearchUnavailable):
        env.step(SCRIPT[0])


def test_the_last_info_is_kept_and_copies_play_the_same():
    vector = gem.make_vec([gem_id(WEBQA)] * 3, vec_kwargs=[dict(SMALL)] * 3, seed=7)
    observations, _ = vector.reset(seed=7)
    assert len(set(observations)) >= 1
    env = GemEnv(WEBQA, seed=7, **SMALL)
    env.reset()
    for action in SCRIPT:
        *_, info = env.step(action)
    _, after = env.reset()
    assert after["final"] == info
    assert after["final"]["end_reason"] == "answered"


def test_it_spawns():
    env = gem.make(gem_id(WEBQA), **SMALL)
    assert env.spawn(max_turns=1).options["max_turns"] == 1
    assert isinstance(env.sample_random_action(), str)
    with pytest.raises(NotImplementedError):
        env.spawn(same_state=True)
