# pyright: basic, reportMissingImports=false
"""OpenEnv (`pip install openenv-core`): our environments behind its protocol.

    ovd serve-env --env ovd/WebQA-v0 --port 8000

    from ovd_envs.integrations.openenv import TextAction, TextClient

    with TextClient(base_url="http://127.0.0.1:8000").sync() as env:
        result = env.reset(seed=3)
        result = env.step(TextAction(text="<search>mayor of Keldorf</search>"))

Each connection has an episode of its own; tasks, index and teacher are shared.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field


class TextAction(Action):
    """The student's text of a turn."""

    text: str


class TextObservation(Observation):
    """What the environment says, and Gymnasium's `info` of the turn. OpenEnv does not send an
    observation's `metadata`."""

    text: str = ""
    info: dict[str, Any] = Field(default_factory=dict)


class TextEnvironment(Environment):
    """An environment of ours on a server."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, **options: Any) -> None:
        super().__init__()
        self.env = gymnasium.make(env_id, disable_env_checker=True, **options)
        self._state = State(episode_id=None, step_count=0)

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> TextObservation:
        """`task_id=` chooses a task."""
        chosen = {name: kwargs[name] for name in ("task_id",) if name in kwargs}
        text, info = self.env.reset(seed=seed, options=chosen or None)
        self._state = State(episode_id=episode_id or info["task_id"], step_count=0)
        return TextObservation(text=text, info=_plain(info))

    def step(
        self, action: TextAction, timeout_s: float | None = None, **kwargs: Any
    ) -> TextObservation:
        """Raises SearchUnavailable or TeacherUnavailable where a service fails: nothing is paid."""
        text, reward, terminated, truncated, info = self.env.step(action.text)
        self._state.step_count += 1
        return TextObservation(
            text=text, reward=float(reward), done=terminated or truncated, info=_plain(info)
        )

    @property
    def state(self) -> State:
        return self._state


class TextClient(EnvClient[TextAction, TextObservation, State]):
    """A client of `ovd serve-env`."""

    def _step_payload(self, action: TextAction) -> dict[str, Any]:
        return {"text": action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[TextObservation]:
        said = payload.get("observation", {})
        reward, done = payload.get("reward"), payload.get("done", False)
        observation = TextObservation(
            text=said.get("text", ""), reward=reward, done=done, info=said.get("info", {})
        )
        return StepResult(observation=observation, reward=reward, done=done)

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(episode_id=payload.get("episode_id"), step_count=payload.get("step_count", 0))


def make_app(env_id: str, sessions: int = 64, **options: Any) -> Any:
    """A FastAPI application for up to `sessions` connections at once."""
    TextEnvironment(env_id, **options)  # bad options are said now, not to the first client

    def one() -> TextEnvironment:
        return TextEnvironment(env_id, **options)

    return create_fastapi_app(one, TextAction, TextObservation, max_concurrent_envs=sessions)


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if hasattr(value, "item") else value for name, value in info.items()}
