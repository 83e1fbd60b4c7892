"""Gymnasium's view of a Scenario, a batch of episodes at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ovd_envs.checks import as_text, check_options, check_parts
from ovd_envs.env import TextEnv
from ovd_envs.episode import Episode, Task
from ovd_envs.errors import ServiceUnavailable
from ovd_envs.info import NO_REWARD, Info, reset_info, step_info
from ovd_envs.registry import made
from ovd_envs.render import render_episode
from ovd_envs.scenario import Scenario
from ovd_envs.spaces import ACTION_FORMS, UnicodeText
from ovd_envs.tasks.order import TaskDrawer


def make_vector_env(
    env_id: str,
    scenario: Any,
    options_type: Any,
    num_envs: int = 1,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    **options: Any,
) -> TextVectorEnv:
    """The entry point of `gymnasium.make_vec`; `options` are those of the environment.

    `max_episode_steps`, Gymnasium's name for it, is `max_turns`.
    """
    if max_episode_steps is not None:
        options = {**options, "max_turns": max_episode_steps}
    return TextVectorEnv(
        *made(env_id, scenario, options_type, options),
        num_envs,
        render_mode=render_mode,
        autoreset_mode=autoreset_mode,
    )


class TextVectorEnv(VectorEnv[tuple[str, ...], Sequence[str | None], NDArray[Any]]):
    """`num_envs` episodes at once: one search call and one teacher call serve a whole step.

    Equal, byte for byte, to `num_envs` single environments with the seeds that `reset` gave them
    (`seed + i` for an integer). Autoreset as in Gymnasium: "NextStep" ignores the action for an
    episode that is over and begins the next one; "SameStep" begins it at once and leaves the last
    observation and info in `final_obs` and `final_info`; in "Disabled" the caller resets, with
    `options={"reset_mask": ...}`. `options={"tasks": [...]}` has a Task, the id of one, or None
    (the next in order) for each place.

    In every mode the action None lets a place rest: its episode, over or not, stays as it is, with
    no reward and no info. So a group of given tasks is played to its end without others.
    """

    def __init__(
        self,
        scenario: Scenario,
        tasks: Sequence[Task],
        num_envs: int,
        *,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        check_parts(tasks, render_mode, ("ansi",))
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: expected at least 1")
        self.scenario = scenario
        self.tasks = tasks
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": ["ansi"], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = UnicodeText()
        self.single_action_space = UnicodeText(forms=ACTION_FORMS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.episodes: list[Episode] = []
        self._drawers = [TaskDrawer(tasks, seeding.np_random()[0]) for _ in range(num_envs)]
        self._finished: set[int] = set()
        """Places that got through a step in which a service failed for others."""

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], Info]:
        check_options(options, ("tasks", "reset_mask"))
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        places: list[int] = np.flatnonzero(mask).tolist()
        if len(mask) != self.num_envs or (len(places) < self.num_envs and not self.episodes):
            raise ValueError(
                f"reset_mask={mask}: expected {self.num_envs} booleans, all True at the first reset"
            )
        seeds = [seed + place for place in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = self._each(seeds, "seed")
        choices = self._each((options or {}).get("tasks"), "options['tasks']")
        begun = {place: self._begin(place, seeds[place], choices[place]) for place in places}
        self.episodes = [begun.get(place) or self.episodes[place] for place in range(self.num_envs)]
        self._finished -= begun.keys()
        infos = {place: reset_info(episode) for place, episode in begun.items()}
        return self._observations(), gathered(infos, self.num_envs)

    def step(
        self, actions: Sequence[str | None]
    ) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Play one turn in each place whose action is not None.

        Raises SearchUnavailable or TeacherUnavailable if a service fails and `on_error` is
        "raise". Call it again with the same actions: places that had got through keep their turn.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions: expected one for each of {self.num_envs}")
        acting = [place for place in range(self.num_envs) if actions[place] is not None]
        over = [
            place
            for place in acting
            if self.episodes and self.episodes[place].done and place not in self._finished
        ]
        if not self.episodes or (over and self.autoreset_mode == AutoresetMode.DISABLED):
            raise ResetNeeded(f"no episode is being played in {over or 'any'}: call reset() first")
        playing = [place for place in acting if place not in over]
        self._advance(
            [(place, as_text(actions[place])) for place in playing if place not in self._finished]
        )
        self._finished.clear()
        infos: dict[int, Info] = {}
        for place in over:
            self.episodes[place] = self._begin(place)
            infos[place] = reset_info(self.episodes[place])
        rewards = np.zeros(self.num_envs)
        for place in playing:
            reward = self.episodes[place].turns[-1].reward
            rewards[place] = NO_REWARD if reward is None else reward
        terminated = np.array([episode.terminated for episode in self.episodes])
        truncated = np.array([episode.truncated for episode in self.episodes])
        for place in playing:
            infos[place] = self._report(place)
        combined = gathered(infos, self.num_envs)
        return self._observations(), rewards, terminated, truncated, combined

    def render(self) -> tuple[str, ...] | None:
        """Every sub-environment's episode as text in mode "ansi"."""
        if self.render_mode == "ansi":
            return tuple(map(render_episode, self.episodes))
        return None

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each single environment, such as "episode"."""
        return tuple(getattr(self._single(place), name) for place in range(self.num_envs))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method of each single environment returns, or an attribute."""
        if name in ("reset", "step"):
            raise ValueError(f"call({name!r}): use {name}() of the vector environment")
        found = self.get_attr(name)
        return tuple(each(*args, **kwargs) if callable(each) else each for each in found)

    def _single(self, place: int) -> TextEnv:
        """The episode at `place`, as an environment of its own."""
        env = TextEnv(self.scenario, self.tasks, self.render_mode)
        env.episode = self.episodes[place] if self.episodes else None
        return env

    def _advance(self, actions: Sequence[tuple[int, str]]) -> None:
        places = [place for place, _ in actions]
        episodes = [self.episodes[place] for place in places]
        try:
            self.scenario.advance(episodes, [action for _, action in actions])
        except ServiceUnavailable as error:
            self._finished |= {places[index] for index in error.turns}
            failed = tuple(places[index] for index in error.failed)
            turns = {places[index]: turn for index, turn in error.turns.items()}
            raise type(error)(str(error), failed, turns) from error

    def _report(self, place: int) -> Info:
        """The info of the turn just played at `place`; begins anew in mode SameStep."""
        episode = self.episodes[place]
        info = step_info(episode)
        if episode.done and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = {"final_obs": _last_observation(episode), "final_info": info}
            self.episodes[place] = self._begin(place)
            return final | reset_info(self.episodes[place])
        return info

    def _begin(self, place: int, seed: int | None = None, choice: Any = None) -> Episode:
        if seed is not None:
            self._drawers[place] = TaskDrawer(self.tasks, seeding.np_random(seed)[0])
        task, episode_seed = self._drawers[place].draw(choice, "options['tasks']")
        [episode] = self.scenario.begin([task], [episode_seed])
        return episode

    def _observations(self) -> tuple[str, ...]:
        return tuple(map(_last_observation, self.episodes))

    def _each(self, value: Any, name: str) -> Sequence[Any]:
        """None for every place, or a value for each."""
        if value is None:
            return [None] * self.num_envs
        if not isinstance(value, list | tuple | np.ndarray):
            raise ValueError(f"{name}={value!r}: expected a list with one entry for each place")
        entries = cast("Sequence[Any]", value)
        if len(entries) != self.num_envs:
            raise ValueError(f"{name} has {len(entries)} entries: expected {self.num_envs}")
        return entries


def gathered(infos: Mapping[int, Info], count: int) -> Info:
    """The infos of some of `count` places as Gymnasium gives them: an array for each key, and in
    `_key` a mask of the places that have it. Equal to adding them one by one with
    `VectorEnv._add_info`, which for 256 places takes a quarter of a step."""
    columns: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    for place, info in infos.items():
        for key, value in info.items():
            columns[key][place] = value
    combined: Info = {}
    for key, column in columns.items():
        places, values = list(column), list(column.values())
        if isinstance(values[0], dict):
            combined[key] = gathered(column, count)
        else:
            number = isinstance(values[0], float)
            combined[key] = np.zeros(count) if number else np.full(count, None, dtype=object)
            combined[key][places] = values
        combined[f"_{key}"] = np.zeros(count, dtype=np.bool_)
        combined[f"_{key}"][places] = True
    return combined


def _last_observation(episode: Episode) -> str:
    return episode.turns[-1].observation if episode.turns else episode.prompt
