"""GEM (`pip install gem-llm`): our environments by `gem.make`.

    import gem
    import ovd_envs.integrations.gem

    env = gem.make("ovd:WebQA-v0", hops=(1, 2))
    vec = gem.make_vec(["ovd:WebQA-v0"] * 8, vec_kwargs=[{}] * 8)

They search by themselves: leave GEM's ToolEnvWrapper away. `info["final"]` of a reset is the last
info of the episode before, which GEM's vector environments drop.
"""

from __future__ import annotations

from typing import Any

import gem
import gymnasium
from gem.envs.registration import ENV_REGISTRY

from ovd_envs.registry import environments


class GemEnv(gem.Env):
    """`gym_id` is the Gymnasium id; `options` are those of the environment."""

    def __init__(self, gym_id: str, seed: int | None = None, **options: Any) -> None:
        self.env = gymnasium.make(gym_id, disable_env_checker=True, **options)
        self.gym_id, self.options = gym_id, options
        self._seed = seed
        self._final: dict[str, Any] = {}

    def reset(self, seed: int | None = None, **options: Any) -> tuple[str, dict[str, Any]]:
        """`task_id=` and `task=` choose a task, as in Gymnasium's `reset(options=...)`."""
        chosen = self._seed if seed is None else seed
        self._seed = None  # GEM seeds once, then draws on
        observation, info = self.env.reset(seed=chosen, options=options or None)
        return observation, {**info, "final": self._final}

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, action: str
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Raises SearchUnavailable or TeacherUnavailable where a service fails: nothing is paid."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        told = {**info, "use_tool": info["action_kind"] == "search", "parsed_action": action}
        if terminated or truncated:
            self._final = told
        return observation, float(reward), terminated, truncated, told

    def sample_random_action(self) -> str:
        return str(self.env.action_space.sample())

    def spawn(self, same_state: bool = False, **options: Any) -> GemEnv:
        if same_state:
            raise NotImplementedError("spawn(same_state=True): begin a new episode instead")
        return GemEnv(self.gym_id, **{**self.options, **options})


def gem_id(gym_id: str) -> str:
    """ "ovd:WebQA-v0" for "ovd/WebQA-v0"."""
    return gym_id.replace("/", ":")


for _id in environments():
    if gem_id(_id) not in ENV_REGISTRY:
        gem.register(gem_id(_id), "ovd_envs.integrations.gem:GemEnv", gym_id=_id)
