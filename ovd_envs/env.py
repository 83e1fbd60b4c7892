"""Gymnasium's view of a Scenario, one episode at a time.

The observation after `reset` is the whole prompt; after that it is what the environment says each
turn. The action is the student's text of the turn. `info` of every step has

- `verbal_score` and `verbal_score_expected` (float): the teacher's judgement; absent if none;
- `score_source`: who judged, or "missing";
- `action_kind`: "search", "answer", "think" or "invalid"; `discarded_chars` (float): how much
  text after the deciding tag was not read;
- `queries` and `documents`: what was searched and found, as JSON;

and at the end of an episode `end_reason` ("answered", "turn_limit", "invalid_limit",
"length_limit" or "infrastructure"), `exact_match`, `f1` (float; absent after an infrastructure
failure), `grade_source`, and `episode_record`, the whole episode as one line of JSON for
`Episode.from_json`. `info` of a reset has `task_id`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.error import ResetNeeded

from ovd_envs.episode import MISSING, Episode, Task, documents_json, json_text
from ovd_envs.make import make_scenario
from ovd_envs.scenario import Scenario
from ovd_envs.spaces import ACTION_FORMS, UnicodeText
from ovd_envs.tasks.order import TaskOrder, choose

Info = dict[str, Any]
NO_REWARD = float("nan")
"""Paid where a service failed: Gymnasium wants a number, and 0 would be a judgement."""


def make_env(env_id: str, render_mode: str | None = None, **options: Any) -> TextEnv:
    """The entry point of `gymnasium.make`; `options` are those of `make_scenario`."""
    return TextEnv(*make_scenario(env_id, **options), render_mode=render_mode)


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
            _show(self.episode.prompt)
        return self.episode.prompt, reset_info(self.episode)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Play one turn. Raises SearchUnavailable or TeacherUnavailable if a service fails and
        `on_error` is "raise": the episode is as it was, and the step may be tried again."""
        episode = self.episode
        if episode is None or episode.done:
            raise ResetNeeded("no episode is being played: call reset() before step()")
        [turn] = self.scenario.advance([episode], [as_text(action)])
        if self.render_mode == "human":
            _show(_render_turn(episode, len(episode.turns)))
        reward = NO_REWARD if turn.reward is None else turn.reward
        return turn.observation, reward, episode.terminated, episode.truncated, step_info(episode)

    def render(self) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The whole episode as text in mode "ansi"; "human" has already printed every turn."""
        if self.render_mode == "ansi":
            return "" if self.episode is None else render_episode(self.episode)
        return None


class TaskDrawer:
    """The task and the seed of the next episode, from one generator."""

    def __init__(self, tasks: Sequence[Task], generator: np.random.Generator) -> None:
        self._tasks = tasks
        self._generator = generator
        self._order = TaskOrder(len(tasks), generator)

    def draw(self, choice: Any, option: str) -> tuple[Task, int]:
        """The next task, or the chosen one, which does not use up the order's."""
        if choice is None:
            task = self._tasks[self._order.draw()]
        else:
            task = choose(self._tasks, choice, option)
        return task, int(self._generator.random() * 2**31)


def render_episode(episode: Episode) -> str:
    """A whole episode for people to read."""
    turns = [_render_turn(episode, number) for number in range(1, len(episode.turns) + 1)]
    return "\n".join([episode.prompt.rstrip(), *turns])


def _render_turn(episode: Episode, number: int) -> str:
    turn = episode.turns[number - 1]
    score = "no score"
    if turn.score and turn.score.level is not None:
        score = f"score {turn.score.level} ({turn.score.source}: {turn.score.rationale})"
    paid = "no reward" if turn.reward is None else f"reward {turn.reward:.2f}"
    lines = [f"--- turn {number}: {turn.kind} · {score} · {paid}"]
    lines += [turn.action.strip(), turn.observation.strip()]
    if episode.done and number == len(episode.turns):
        grade = "not graded"
        if episode.exact_match is not None and episode.f1 is not None:
            grade = f"exact match {episode.exact_match:.0f}, F1 {episode.f1:.2f}"
        lines.append(f"=== {episode.end_reason}: {grade}")
    return "\n".join(line for line in lines if line)


def _show(text: str) -> None:
    """Print even what the terminal cannot: a lone surrogate, or emoji where there is only ASCII."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def reset_info(episode: Episode) -> Info:
    return {"task_id": episode.task.id}


def step_info(episode: Episode) -> Info:
    """What Gymnasium is told of the last turn: strings and floats only, and nothing made up."""
    turn, score = episode.turns[-1], episode.turns[-1].score
    info: Info = {
        "score_source": MISSING,
        "action_kind": turn.kind,
        "discarded_chars": float(turn.discarded_chars),
        "queries": f"[{json_text(turn.content)}]" if turn.kind == "search" else "[]",
        "documents": documents_json(turn.documents),
    }
    if score is not None and score.level is not None:
        info["score_source"] = score.source
        info["verbal_score"] = float(score.level)
        info["verbal_score_expected"] = float(
            score.level if score.expected is None else score.expected
        )
    if episode.done:
        info["end_reason"] = episode.end_reason
        if episode.exact_match is not None and episode.f1 is not None:
            info["exact_match"], info["f1"] = episode.exact_match, episode.f1
        if episode.grade_source is not None:
            info["grade_source"] = episode.grade_source
        info["episode_record"] = episode.to_json()
    return info


def as_text(action: Any) -> str:
    if not isinstance(action, str):
        raise TypeError(f"the action is of type {type(action).__name__}: expected a str")
    return str(action)  # of numpy's strings too


def check_parts(tasks: Sequence[Task], render_mode: str | None, modes: Sequence[str]) -> None:
    if not tasks:
        raise ValueError("tasks is empty: expected at least one Task")
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode={render_mode!r}: expected None or one of {', '.join(modes)}")


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> None:
    for name in options or {}:
        if name not in known:
            raise ValueError(f"reset has no option {name!r}: expected one of {', '.join(known)}")
