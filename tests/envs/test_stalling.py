"""Stalling never pays: a player who answers nothing earns no more than one who answers wrongly, and
less than the oracle, in every mode of reward."""

import pytest

from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario

IDLE = {
    "ovd/WebQA-v0": ("<search>the town</search>", "<think>hm</think><search>more</search>"),
    "ovd/Math-v0": ("<think>hm</think>", "1 + 1 = 2"),
}


def returns(scenario: Scenario, tasks, act) -> list[float]:
    episodes = scenario.begin(tasks)
    while running := [each for each in episodes if not each.done]:
        scenario.advance(running, [act(each) for each in running])
    return [sum(turn.reward or 0.0 for turn in each.turns) for each in episodes]


@pytest.mark.parametrize("env", IDLE)
@pytest.mark.parametrize("reward", ["outcome", "verbal", "mixed"])
@pytest.mark.parametrize("max_turns", [3, 8])
def test_a_stalling_player_loses(env: str, reward: str, max_turns: int) -> None:
    scenario, tasks = make_scenario(env, count=12, reward=reward, max_turns=max_turns)
    shown = scenario.demonstrate(tasks)
    oracle = [sum(turn.reward or 0.0 for turn in each.turns) for each in shown]
    wrong = returns(scenario, tasks, lambda episode: "<answer>no idea</answer>")
    for idle in IDLE[env]:
        stalled = returns(scenario, tasks, lambda episode, idle=idle: idle)
        assert stalled == [0.0] * len(tasks)
        assert all(s <= w for s, w in zip(stalled, wrong, strict=True))
        assert all(
            s < o
            for s, o, episode in zip(stalled, oracle, shown, strict=True)
            if episode.exact_match == 1
        )
    assert sum(episode.exact_match == 1 for episode in shown) > len(tasks) / 2
    if reward != "outcome":
        assert all(o > w for o, w in zip(oracle, wrong, strict=True))
