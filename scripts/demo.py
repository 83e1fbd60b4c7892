"""Watch the oracle teacher play one episode of each environment."""

from __future__ import annotations

import gymnasium

from ovd_envs.env import TextEnv


def main() -> None:
    for env_id in ("ovd/WebQA-v0", "ovd/Math-v0"):
        env = gymnasium.make(f"ovd_envs:{env_id}").unwrapped
        assert isinstance(env, TextEnv)
        for index in range(2):
            [episode] = env.scenario.demonstrate([env.tasks[index]])
            env.episode = episode
            env.render_mode = "ansi"
            print(f"{env.render()}\n")


if __name__ == "__main__":
    main()
