# pyright: basic, reportMissingImports=false
"""verifiers (`pip install "verifiers>=0.4,<0.5"`): our tasks as a taskset, our scenario as its env.

    from ovd_envs.integrations.verifiers import OVDEnv, configured

    env = OVDEnv(configured("ovd/WebQA-v0", hops=[1, 2]))

The student moves first and the environment answers as its user. The reward is the episode's; the
teacher's scores stand in `trace.info`. A failed service fails the episode, which may be tried
again, and is never a reward of 0.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import verifiers.v1 as vf

from ovd_envs.episode import Episode, Task
from ovd_envs.registry import DEFAULT_ENV, make_scenario
from ovd_envs.scenario import Scenario

TASKSET_ID = "ovd_verifiers"
"""Under which verifiers finds this module, once it was imported."""


class OVDConfig(vf.TasksetConfig):
    """Which environment, with which options."""

    env_id: str = DEFAULT_ENV
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it


class OVDData(vf.TaskData):
    """`info` names the environment, its options and the task."""

    info: dict[str, Any]


class OVDTask(vf.Task[OVDData, vf.State, vf.TaskConfig]):
    """A task of ours."""


class OVDEnvConfig(vf.EnvConfig):
    """The student is the one agent."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class OVDEnv(vf.Env[OVDEnvConfig]):
    """Plays our scenario as the student's user."""

    async def run(self, task: OVDTask, agents: Any) -> None:
        """Raises SearchUnavailable or TeacherUnavailable where a service fails."""
        info = task.data.info
        scenario, tasks = _made(info["env_id"], json.dumps(info["options"], sort_keys=True))
        [episode] = scenario.begin([tasks[info["task_id"]]])
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                # Search and teacher may wait for a server: other episodes go on meanwhile.
                [turn] = await asyncio.to_thread(
                    scenario.advance, [episode], [segment.last_reply or ""]
                )
                if episode.done:
                    break
                segment = await interaction.turn(turn.observation)
        if episode.done:  # else the student's model failed, which the trace says
            _record(interaction.trace, episode)


class OVDTaskset(vf.Taskset[OVDTask, OVDConfig]):
    """The tasks of an environment."""

    def load(self) -> Iterator[OVDTask]:
        options = self.config.options
        scenario, tasks = _made(self.config.env_id, json.dumps(options, sort_keys=True))
        for name, task in tasks.items():
            info = {"env_id": self.config.env_id, "options": options, "task_id": name}
            data = OVDData(name=name, prompt=scenario.prompt(task), info=info)
            yield OVDTask(data, self.config.task)


def configured(env_id: str = DEFAULT_ENV, **options: Any) -> OVDEnvConfig:
    """The configuration of an environment; the student runs in a subprocess on this machine."""
    return OVDEnvConfig(taskset=OVDConfig(id=TASKSET_ID, env_id=env_id, options=options))


def _record(trace: Any, episode: Episode) -> None:
    trace.record_reward("return", sum(turn.reward or 0.0 for turn in episode.turns), 1.0)
    trace.info["exact_match"] = episode.exact_match
    trace.info["end_reason"] = episode.end_reason
    trace.info["verbal_scores"] = episode.expected_scores


@lru_cache(maxsize=8)
def _made(env_id: str, options: str) -> tuple[Scenario, Mapping[str, Task]]:
    scenario, tasks = make_scenario(env_id, **json.loads(options))
    return scenario, {task.id: task for task in tasks}


__all__ = ["OVDConfig", "OVDEnv", "OVDTaskset"]

# verifiers imports a taskset by its id, which has no dots.
sys.modules.setdefault(TASKSET_ID, sys.modules[__name__])
