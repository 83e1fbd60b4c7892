"""What every environment keeps to, ours and the example's."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from dataclasses import fields

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from ovd_agent.runs.config import TrainConfig
from ovd_envs.episode import Episode
from ovd_envs.errors import OptionError
from ovd_envs.info import NO_REWARD
from ovd_envs.options import Options
from ovd_envs.registry import choose_environment, environments, make_scenario

IDS = [*environments(), "own_environment:me/Guess-v0"]
TEXTS = ("", "words", "\ud800", "<answer>x</answer>", "<think>5</think>", "<search>a</search>")

pytestmark = pytest.mark.parametrize("env_id", IDS)


def test_gymnasiums_checker_is_silent(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_the_same_id_without_options_is_the_same_environment_everywhere(env_id: str) -> None:
    made = gymnasium.make(env_id).unwrapped.scenario.options
    batched = gymnasium.make_vec(env_id, 2).unwrapped.scenario.options
    trained = TrainConfig(env=env_id).environment().options
    assert made == batched == trained == choose_environment(env_id).options
    held_out = TrainConfig(env=env_id).held_out(7).options
    assert {
        each.name
        for each in fields(held_out)
        if getattr(held_out, each.name) != getattr(made, each.name)
    } == {"split", "count"}


def test_options_are_a_subclass_of_the_shared_ones(env_id: str) -> None:
    assert isinstance(choose_environment(env_id).options, Options)
    with pytest.raises(OptionError, match="has no option 'nonsense'"):
        make_scenario(env_id, nonsense=1)


def test_an_episode_ends_and_says_how(env_id: str) -> None:
    env = gymnasium.make(env_id, max_invalid=None).unwrapped
    for seed, text in enumerate(TEXTS):
        env.reset(seed=seed)
        for _ in range(env.scenario.options.max_turns):
            _, reward, terminated, truncated, info = env.step(text)
            assert isinstance(reward, float)
            assert not (terminated and truncated)
            if terminated or truncated:
                break
        else:
            pytest.fail(f"{text!r}: no end after max_turns")
        assert info["end_reason"] in ("answered", "turn_limit")
        assert 0 <= info["exact_match"] <= info["f1"] <= 1
        assert Episode.from_json(info["episode_record"]).to_json() == info["episode_record"]


def test_the_same_actions_make_the_same_episode_byte_for_byte(env_id: str) -> None:
    """In one environment, in a slot of a batch, after a copy and after pickling."""
    one = gymnasium.make(env_id, max_invalid=None).unwrapped
    many = gymnasium.make_vec(env_id, 2, max_invalid=None, autoreset_mode="Disabled").unwrapped
    one.reset(seed=8)
    many.reset(seed=7)
    twins = [copy.deepcopy(one), pickle.loads(pickle.dumps(one))]
    record = None
    for text in (*TEXTS[1:3], TEXTS[4], TEXTS[3]):
        if not one.episode.done:
            record = one.step(text)[4].get("episode_record")
            many.step([text] * 2)
            for twin in twins:
                twin.step(text)
    assert record is not None
    assert {many.episodes[1].to_json(), *(twin.episode.to_json() for twin in twins)} == {record}


def test_an_episode_is_resumed_at_any_turn_by_anyone(env_id: str) -> None:
    scenario, tasks = make_scenario(env_id, max_invalid=None)
    [shown] = scenario.demonstrate(tasks[:1])
    for turn in range(len(shown.turns) + 1):
        resumed = scenario.resume(shown, turn)
        assert not resumed.done
        assert resumed.turns == shown.turns[:turn]
        scenario.play_on([resumed], scenario.teacher)
        assert resumed.done
        if turn < len(shown.turns):
            assert resumed.to_json() == shown.to_json()
    with pytest.raises(OptionError, match="expected 0 to"):
        scenario.resume(shown, len(shown.turns) + 1)
    changed = scenario.resume(shown, 1)
    changed.turns[0].action = "something else"
    assert shown.turns[0].action != "something else"


def test_the_teacher_shows_what_the_environment_grades_right(env_id: str) -> None:
    scenario, tasks = make_scenario(env_id)
    shown = scenario.demonstrate(tasks[:20])
    assert np.mean([episode.exact_match for episode in shown]) > 0.9
    scores = [score for episode in shown for score in episode.expected_scores]
    assert np.mean(scores) > 0.6 * (scenario.options.score_levels - 1)


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_the_number_of_score_levels_has_one_home(env_id: str, levels: int) -> None:
    scenario, tasks = make_scenario(env_id, score_levels=levels, max_invalid=None)
    episodes = scenario.begin(tasks[:3])
    found = scenario.advance(episodes, TEXTS[1:4])
    assert all(0 <= turn.score.level < levels for turn in found)
    shown = scenario.demonstrate(tasks[:3])
    assert max(max(episode.levels) for episode in shown) == levels - 1


def test_a_broken_teacher_is_no_reward(env_id: str) -> None:
    class Broken:
        def score(self, requests):
            raise ConnectionError("down")

    env = gymnasium.make(env_id, teacher=Broken(), on_error="mark").unwrapped
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("<think>5</think>")
    assert np.isnan(reward)
    assert np.isnan(NO_REWARD)
    assert (terminated, truncated) == (False, True)
    assert info["end_reason"] == "infrastructure"
    assert "exact_match" not in info
    assert json.loads(info["episode_record"])["exact_match"] is None


def test_making_it_again_costs_no_new_tasks(env_id: str) -> None:
    if env_id.startswith("own_"):
        pytest.skip("an environment of one's own generates as it likes")
    first = make_scenario(env_id)[1]
    assert all(make_scenario(env_id)[1] is first for _ in range(3))
