"""Gymnasium's view of a Scenario: `TextEnv` plays one episode, `TextVectorEnv` a batch of them.

The observation after `reset` is the whole prompt; after that it is what the environment says each
turn. The action is the student's text of the turn. `info` of every step has

- `verbal_score` (int) and `verbal_score_expected` (float): the teacher's judgement, -1 if none;
- `score_source`: who judged; "missing" if the teacher failed, "none" if there is no teacher;
- `action_kind`: "search", "answer", "think" or "invalid";
- `queries` (list of str) and `documents` (list of dict): what was searched and found;

and at the end of the episode `exact_match`, `f1` and `ovd_episode`, the whole episode as one line
of JSON for `Episode.from_json`. (The key is not `episode`, which Gymnasium's
`RecordEpisodeStatistics` claims for itself.) `info` of a reset has `task_id` and `seed`:
`reset(seed=info["seed"])` begins that very episode again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from gymnasium import Env
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ovd_envs.episode import Episode, Task
from ovd_envs.make import make_scenario
from ovd_envs.scenario import Scenario
from ovd_envs.spaces import UnicodeText

Info = dict[str, Any]


def make_env(env_id: str, render_mode: str | None = None, **options: Any) -> TextEnv:
    """The entry point of `gymnasium.make`; `options` are those of `make_scenario`."""
    return TextEnv(*make_scenario(env_id, **options), render_mode=render_mode)


def make_vector_env(
    env_id: str,
    num_envs: int = 1,
    render_mode: str | None = None,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    **options: Any,
) -> TextVectorEnv:
    """The entry point of `gymnasium.make_vec`; `options` are those of `make_scenario`."""
    scenario, tasks = make_scenario(env_id, **options)
    return TextVectorEnv(
        scenario, tasks, num_envs, render_mode=render_mode, autoreset_mode=autoreset_mode
    )


class TextEnv(Env[str, str]):
    """One episode at a time of `scenario` on tasks drawn from `tasks`.

    `reset(options={"task": ...})` chooses the task: a `Task`, its place in `tasks` or its id.
    """

    # Text has no frames a second, but Gymnasium's checker asks for them.
    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self, scenario: Scenario, tasks: Sequence[Task], render_mode: str | None = None
    ) -> None:
        _check(tasks, render_mode, ("ansi", "human"))
        self.scenario = scenario
        self.tasks = tasks
        self.render_mode = render_mode
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.episode: Episode | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        _check_options(options, ("task",))
        if seed is None:
            seed = _draw_seed(self.np_random)
        task = _choose(self.tasks, seed, (options or {}).get("task"))
        [self.episode] = self.scenario.begin([task], [seed])
        if self.render_mode == "human":
            _show(self.episode.prompt)
        return self.episode.prompt, _reset_info(self.episode)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        episode = self.episode
        if episode is None or episode.done:
            raise ResetNeeded("no episode is being played: call reset() before step()")
        [turn] = self.scenario.advance([episode], [_text(action)])
        if self.render_mode == "human":
            _show(_render_turn(episode, len(episode.turns)))
        ended = (episode.terminated, episode.truncated)
        return turn.observation, turn.reward, *ended, _step_info(episode)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The whole episode as text in mode "ansi"; "human" has already printed every turn."""
        if self.render_mode == "ansi":
            return "" if self.episode is None else render_episode(self.episode)
        return None


class TextVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], NDArray[Any]]):
    """`num_envs` episodes at once: one search call and one teacher call serve a whole step.

    Equal, byte for byte, to `num_envs` single environments with the seeds that `reset` gave them
    (`seed + i` for an integer). Autoreset as in Gymnasium: "NextStep" ignores the action for an
    episode that is over and begins the next one; "SameStep" begins it at once and leaves the last
    observation and info in `final_obs` and `final_info`; in "Disabled" the caller resets, with
    `options={"reset_mask": ...}`. `options={"task": ...}` takes one choice for all or a list.
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
        _check(tasks, render_mode, ("ansi",))
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: expected at least 1")
        self.scenario = scenario
        self.tasks = tasks
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": ["ansi"], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = UnicodeText()
        self.single_action_space = UnicodeText()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.episodes: list[Episode] = []
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], Info]:
        _check_options(options, ("task", "reset_mask"))
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        rows: list[int] = np.flatnonzero(mask).tolist()
        if len(mask) != self.num_envs or (len(rows) < self.num_envs and not self.episodes):
            raise ValueError(
                f"reset_mask={mask}: expected {self.num_envs} booleans, all True at the first reset"
            )
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = self._each(seeds, "seed")
        choices = self._each((options or {}).get("task"), "options['task']")
        begun = {row: self._begin(row, seeds[row], choices[row]) for row in rows}
        self.episodes = [begun.get(row) or self.episodes[row] for row in range(self.num_envs)]
        infos: Info = {}
        for row, episode in begun.items():
            self._add_info(infos, _reset_info(episode), row)
        return self._observations(), infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions: expected one for each of {self.num_envs}")
        over = [row for row, episode in enumerate(self.episodes) if episode.done]
        if not self.episodes or (over and self.autoreset_mode == AutoresetMode.DISABLED):
            raise ResetNeeded(f"no episode is being played in {over or 'any'}: call reset() first")
        playing = [row for row, episode in enumerate(self.episodes) if not episode.done]
        self._advance(playing, [_text(actions[row]) for row in playing])
        infos: Info = {}
        for row in over:
            self.episodes[row] = self._begin(row)
            self._add_info(infos, _reset_info(self.episodes[row]), row)
        rewards = np.zeros(self.num_envs)
        rewards[playing] = [self.episodes[row].turns[-1].reward for row in playing]
        terminated = np.array([episode.terminated for episode in self.episodes])
        truncated = np.array([episode.truncated for episode in self.episodes])
        for row in playing:
            self._report(row, infos)
        return self._observations(), rewards, terminated, truncated, infos

    def render(self) -> tuple[str, ...] | None:
        """Every sub-environment's episode as text in mode "ansi"."""
        if self.render_mode == "ansi":
            return tuple(map(render_episode, self.episodes))
        return None

    def _advance(self, rows: Sequence[int], actions: Sequence[str]) -> None:
        if rows:
            self.scenario.advance([self.episodes[row] for row in rows], actions)

    def _report(self, row: int, infos: Info) -> None:
        """Add the info of the step that `row` just played, and begin anew in mode SameStep."""
        episode = self.episodes[row]
        info = _step_info(episode)
        if episode.done and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final = {"final_obs": _last_observation(episode), "final_info": info}
            self._add_info(infos, final, row)
            self.episodes[row] = self._begin(row)
            info = _reset_info(self.episodes[row])
        self._add_info(infos, info, row)

    def _begin(self, row: int, seed: int | None = None, choice: Any = None) -> Episode:
        if seed is None:
            seed = _draw_seed(self._generators[row])
        else:
            self._generators[row], _ = seeding.np_random(seed)
        [episode] = self.scenario.begin([_choose(self.tasks, seed, choice)], [seed])
        return episode

    def _observations(self) -> tuple[str, ...]:
        return tuple(map(_last_observation, self.episodes))

    def _each(self, value: Any, name: str) -> Sequence[Any]:
        """`value` for every sub-environment, or its own for each if it is a sequence."""
        if not isinstance(value, list | tuple | np.ndarray):
            return [value] * self.num_envs
        entries = cast("Sequence[Any]", value)
        if len(entries) != self.num_envs:
            expected = f"expected one for all or one for each of {self.num_envs}"
            raise ValueError(f"{name} has {len(entries)} entries: {expected}")
        return entries


def render_episode(episode: Episode) -> str:
    """A whole episode for people to read."""
    turns = [_render_turn(episode, number) for number in range(1, len(episode.turns) + 1)]
    return "\n".join([episode.prompt.rstrip(), *turns])


def _render_turn(episode: Episode, number: int) -> str:
    turn = episode.turns[number - 1]
    score = "no score" if turn.score is None else f"score {turn.score.level} ({turn.score.source})"
    lines = [f"--- turn {number}: {turn.kind} · {score} · reward {turn.reward:.2f}"]
    lines += [turn.action.strip(), turn.observation.strip()]
    if episode.done and number == len(episode.turns):
        end = "answered" if episode.terminated else "truncated"
        lines.append(f"=== {end}: exact match {episode.exact_match}, F1 {episode.f1}")
    return "\n".join(line for line in lines if line)


def _show(text: str) -> None:
    """Print even what the terminal cannot: a lone surrogate, or emoji where there is only ASCII."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _reset_info(episode: Episode) -> Info:
    return {"task_id": episode.task.id, "seed": episode.seed}


def _step_info(episode: Episode) -> Info:
    turn, score = episode.turns[-1], episode.turns[-1].score
    info: Info = {
        "verbal_score": -1 if score is None or score.level is None else score.level,
        "verbal_score_expected": -1.0
        if score is None or score.expected is None
        else score.expected,
        "score_source": "none" if score is None else score.source,
        "action_kind": turn.kind,
        "queries": [turn.content] if turn.kind == "search" else [],
        "documents": [asdict(document) for document in turn.documents],
    }
    if episode.done:
        info["exact_match"], info["f1"] = episode.exact_match, episode.f1
        info["ovd_episode"] = episode.to_json()
    return info


def _last_observation(episode: Episode) -> str:
    return episode.turns[-1].observation if episode.turns else episode.prompt


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _choose(tasks: Sequence[Task], seed: int, choice: Task | int | str | None) -> Task:
    """The chosen task, or the one that `seed` stands for."""
    if choice is None:
        return tasks[int(np.random.default_rng(seed).integers(len(tasks)))]
    if isinstance(choice, Task):
        return choice
    if isinstance(choice, int | np.integer):
        if not 0 <= choice < len(tasks):
            raise ValueError(f"options['task']={choice}: expected 0 to {len(tasks) - 1}")
        return tasks[int(choice)]
    for task in tasks:
        if task.id == choice:
            return task
    raise ValueError(f"options['task']={choice!r}: expected a Task, its place in tasks or its id")


def _text(action: Any) -> str:
    if not isinstance(action, str):
        raise TypeError(f"the action is of type {type(action).__name__}: expected a str")
    return str(action)  # of numpy's strings too


def _check(tasks: Sequence[Task], render_mode: str | None, modes: Sequence[str]) -> None:
    if not tasks:
        raise ValueError("tasks is empty: expected at least one Task")
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode={render_mode!r}: expected None or one of {', '.join(modes)}")


def _check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> None:
    for name in options or {}:
        if name not in known:
            raise ValueError(f"reset has no option {name!r}: expected one of {', '.join(known)}")
