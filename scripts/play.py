"""Watch a student play, or play yourself: `python scripts/play.py --student runs/demo`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Literal

import tyro
from rich.console import Console

from ovd_agent.assemble import assemble
from ovd_agent.config import EnvironmentConfig, TrainConfig
from ovd_envs.env import render_episode
from ovd_envs.errors import OVDError
from ovd_envs.make import make_scenario


@dataclass(frozen=True)
class PlayConfig:
    """Play held-out tasks, with the teacher's score after every turn."""

    student: str = "you"
    """"you" types the actions; else a student as in evaluate.py."""
    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    episodes: int = 3
    first: int = 0
    """Which held-out task to begin with."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)


def main(config: PlayConfig) -> int:
    try:
        play_yourself(config) if config.student == "you" else watch(config)
    except OVDError as error:
        print(error, file=sys.stderr)
        return 2
    except (EOFError, KeyboardInterrupt):
        print()
    return 0


def watch(config: PlayConfig) -> None:
    count = config.first + config.episodes
    parts = assemble(
        TrainConfig(
            env=config.env,
            student=config.student,
            eval_count=count,
            environment=config.environment,
        )
    )
    for trajectory in parts.rollout.play(parts.held_out[config.first :], temperature=0.0):
        show(render_episode(trajectory.episode))


def play_yourself(config: PlayConfig) -> None:
    count = config.first + config.episodes
    options = config.environment.options(config.env, "test", count)
    scenario, tasks = make_scenario(config.env, **options)
    for task in tasks[config.first : count]:
        [episode] = scenario.begin([task])
        show(episode.prompt)
        while not episode.done:
            [turn] = scenario.advance([episode], [input("> ")])
            show(turn.observation.strip())
            if turn.score and turn.score.level is not None:
                show(f"[score {turn.score.level}: {turn.score.rationale}]")
        show(f"{episode.end_reason}; the answer is {task.answers[0]}\n")


def show(text: str) -> None:
    Console().print(text, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(PlayConfig, description=__doc__)))
