"""SkyRL (`pip install skyrl-gym`): our environments as text environments of its trainer.

    import skyrl_gym
    import ovd_envs.integrations.skyrl  # registers "ovd_webqa" and "ovd_math"

    rows = ovd_envs.integrations.skyrl.rows("ovd/WebQA-v0", count=1000)  # for its data set

A row names its task by id, so that the copies of a group play the same. SkyRL plays each episode in
a thread of its own; a failed service raises, and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
from skyrl_gym.envs.registration import registry

from ovd_envs.episode import Episode, Task
from ovd_envs.registry import environments, make_scenario
from ovd_envs.scenario import Scenario

Message = dict[str, str]


class SkyRLEnv(BaseTextEnv):
    """`env_config` are options of the environment, `extras` the row of the data set."""

    env_id = ""

    def __init__(
        self, env_config: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        options = dict(env_config or {})
        row = dict(extras or {})
        self.scenario, tasks = _made(self.env_id, tuple(sorted(options.items())))
        self.max_turns = self.scenario.options.max_turns
        self.episode: Episode = self.scenario.begin(
            [_task(tasks, row["task_id"])], [int(row.get("seed", 0))]
        )[0]

    def init(self, prompt: list[Message]) -> tuple[list[Message], dict[str, Any]]:
        """The task's own prompt, whatever the row says."""
        return [{"role": "user", "content": self.episode.prompt}], {"task_id": self.episode.task.id}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Raises SearchUnavailable or TeacherUnavailable where a service fails."""
        [turn] = self.scenario.advance([self.episode], [action])
        self.turns = len(self.episode.turns)
        said = [{"role": "user", "content": turn.observation}] if turn.observation else []
        score = turn.score.expected if turn.score else None
        output: Any = {
            "observations": [] if self.episode.done else said,
            "reward": float(turn.reward or 0.0),
            "done": self.episode.done,
            "metadata": {"verbal_score": score, "end_reason": self.episode.end_reason},
        }
        return cast(BaseTextEnvStepOutput, output)

    def get_metrics(self) -> dict[str, float]:
        """Numbers of the finished episode."""
        scores = self.episode.expected_scores
        return {
            "exact_match": self.episode.exact_match or 0.0,
            "f1": self.episode.f1 or 0.0,
            "searches": float(sum(turn.kind == "search" for turn in self.episode.turns)),
            "verbal_score": sum(scores) / len(scores) if scores else 0.0,
            "answered": float(self.episode.end_reason == "answered"),
        }


def rows(env_id: str, **options: Any) -> Iterator[dict[str, Any]]:
    """A row for each task, as SkyRL's data sets have them."""
    scenario, tasks = make_scenario(env_id, **options)
    for task in tasks:
        yield {
            "prompt": [{"role": "user", "content": scenario.prompt(task)}],
            "env_class": skyrl_id(env_id),
            "reward_spec": {"method": "rule", "ground_truth": list(task.answers)},
            "task_id": task.id,
        }


def skyrl_id(env_id: str) -> str:
    """ "ovd_webqa" for "ovd/WebQA-v0"."""
    return env_id.partition("-v")[0].replace("/", "_").lower()


@lru_cache(maxsize=8)
def _made(env_id: str, options: tuple[tuple[str, Any], ...]) -> tuple[Scenario, dict[str, Task]]:
    """One scenario for all episodes, with its tasks by id."""
    scenario, tasks = make_scenario(env_id, **dict(options))
    return scenario, {task.id: task for task in tasks}


def _task(tasks: Mapping[str, Task], task_id: str) -> Task:
    if task_id not in tasks:
        raise ValueError(
            f"task_id={task_id!r}: expected the id of a task; make the rows with the same options"
        )
    return tasks[task_id]


def _class_of(env_id: str) -> type[SkyRLEnv]:
    return type(skyrl_id(env_id), (SkyRLEnv,), {"env_id": env_id})


for _id in environments():
    globals()[skyrl_id(_id)] = _class_of(_id)
    if skyrl_id(_id) not in registry:
        skyrl_gym.register(id=skyrl_id(_id), entry_point=f"{__name__}:{skyrl_id(_id)}")
