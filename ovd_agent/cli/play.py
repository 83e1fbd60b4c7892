"""Watch a student play, or play yourself: `ovd play --student runs/demo`.

Environment and rollout options of a run's folder are those of the run, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from ovd_agent.cli.evaluate import describe_tasks
from ovd_agent.cli.parse import parse
from ovd_agent.cli.run_folder import options_of_run
from ovd_agent.runs.assemble import assemble_play
from ovd_agent.runs.config import PlayConfig
from ovd_envs.episode import Task
from ovd_envs.render import render_episode
from ovd_envs.scenario import Scenario

YOU = "you"


@dataclass(frozen=True)
class Options(PlayConfig):
    """Play held-out tasks, with the teacher's score after every turn."""

    student: str = YOU
    """"you" types the actions; else a student as in `ovd evaluate`."""
    episodes: int = 3
    first: int = 0
    """Which held-out task to begin with."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "", options_of_run(arguments))
    choice = options.held_out(options.first + options.episodes)
    scenario, tasks = choice.build()
    tasks = tasks[options.first : options.first + options.episodes]
    print(describe_tasks(choice, len(tasks)))
    try:
        if options.student == YOU:
            play_yourself(scenario, tasks)
        else:
            rollout, _ = assemble_play(options, scenario)
            for trajectory in rollout.play(tasks, temperature=0.0):
                show(render_episode(trajectory.episode))
    except (EOFError, KeyboardInterrupt):
        print()
    return 0


def play_yourself(scenario: Scenario, tasks: Sequence[Task]) -> None:
    for task in tasks:
        [episode] = scenario.begin([task])
        show(episode.prompt)
        while not episode.done:
            [turn] = scenario.advance([episode], [input("> ")])
            show(turn.observation.strip())
            if turn.score and turn.score.level is not None:
                show(f"[score {turn.score.level}: {turn.score.rationale}]")
        right = "right" if episode.exact_match else "wrong"
        show(f"{right} ({episode.end_reason}); the answer is {task.answers[0]}\n")


def show(text: str) -> None:
    Console().print(text, markup=False, highlight=False)
