"""Gymnasium's view of a Scenario, one episode at a time.

The observation after `reset` is the whole prompt; after that it is what the environment says each
turn. The action is the student's text of the turn. `ovd_envs.info` says what `info` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import Env
from gymnasium.error import ResetNeeded

from ovd_envs.checks import as_text, check_options, check_parts
from ovd_envs.episode import Episode, Task
from ovd_envs.info import NO_REWARD, Info, reset_info, step_info
from ovd_envs.registry import made
from ovd_envs.render import render_episode, render_turn, show
from ovd_envs.scenario import Scenario
from ovd_envs.spaces import ACTION_FORMS, UnicodeText
from ovd_envs.tasks.order import TaskDrawer


def make_env(
    env_id: str,
    scenario: Any,
    options_type: Any,
    render_mode: str | None = None,
    **options: Any,
) -> TextEnv:
    """The entry point of `gymnasium.make`; `options` are those of the environment."""
    return TextEnv(*made(env_id, scenario, options_type, options), render_mode=render_mode)


class TextEnv(Env[str, str]):
    """One episode at a time of `scenario`; tasks are drawn in a random order, each once an epoch.

    `reset(options={"task_id": ...})` chooses a task by its id, `options={"task": ...}` takes a
    Task of your own.
    """

    # Text has no frames a second, but Gymnasium's checker asks for them.
    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self, scenario: Scenario, tasks: Sequence[Task], render_mode: str | None = None
    ) -> None:
        check_parts(tasks, render_mode, ("ansi", "human"))
        self.scenario = scenario
        self.tasks = tasks
        self.render_mode = render_mode
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText(forms=ACTION_FORMS)
        self.episode: Episode | None = None
        self._drawer: TaskDrawer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        check_options(options, ("task", "task_id"))
        if seed is not None or self._drawer is None:
            self._drawer = TaskDrawer(self.tasks, self.np_random)
        chosen = dict(options or {})
        choice = chosen.get("task", chosen.get("task_id"))
        task, episode_seed = self._drawer.draw(choice, "options['task_id']")
        [self.episode] = self.scenario.begin([task], [episode_seed])
        if self.render_mode == "human":
            show(self.episode.prompt)
        return self.episode.prompt, reset_info(self.episode)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play one turn. Raises SearchUnavailable or TeacherUnavailable if a service fails and
        `on_error` is "raise": the episode is as it was, and the step may be tried again."""
        episode = self.episode
        if episode is None or episode.done:
            raise ResetNeeded("no episode is being played: call reset() before step()")
        [turn] = self.scenario.advance([episode], [as_text(action)])
        if self.render_mode == "human":
            show(render_turn(episode, len(episode.turns)))
        reward = NO_REWARD if turn.reward is None else turn.reward
        return turn.observation, reward, episode.terminated, episode.truncated, step_info(episode)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The whole episode as text in mode "ansi"; "human" has already printed every turn."""
        if self.render_mode == "ansi":
            return "" if self.episode is None else render_episode(self.episode)
        return None
