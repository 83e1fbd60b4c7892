"""A scripted episode, and a search engine that is down."""

from __future__ import annotations

import gymnasium

WEBQA = "ovd/WebQA-v0"
SMALL = {"passages": 200, "count": 12, "max_turns": 3}
SCRIPT = [
    "<search>mayor</search>",
    "<think>hm</think><search>seat of</search>",
    "<answer>x</answer>",
]


class Failing:
    def search(self, requests, k):
        raise OSError("down")


def ours(seed=None, **reset):
    """The episode in Gymnasium: observations, rewards and scores, and the last info."""
    env = gymnasium.make(WEBQA, **SMALL)
    observation, info = env.reset(seed=seed, options=reset or None)
    found = [(observation, 0.0, None)]
    for action in SCRIPT:
        observation, reward, *_, info = env.step(action)
        found.append((observation, reward, info["verbal_score_expected"]))
    return found, info
