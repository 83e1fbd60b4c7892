"""Evaluate a student: `ovd evaluate --student runs/demo --count 200`.

A public benchmark: `ovd evaluate --student X --benchmark hotpotqa --search my_index`; its file lies
in the folder that OVD_DATA names. Environment and rollout options of a run's folder are those of
the run, unless told otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.cli.run_folder import options_of_run
from ovd_agent.rollouts.rollout import Feedback, Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_agent.runs.assemble import assemble_play
from ovd_agent.runs.config import PlayConfig
from ovd_agent.runs.evaluate import evaluate
from ovd_agent.runs.fingerprints import fingerprints
from ovd_agent.runs.published import packed_grades
from ovd_envs import __version__
from ovd_envs.episode import Task, write_episodes
from ovd_envs.errors import OptionError
from ovd_envs.options import Options
from ovd_envs.scenarios import MATH, WEBQA
from ovd_envs.tasks.benchmarks import benchmark, fingerprint, is_whole
from retrieval_index.files import write_atomically
from retrieval_index.options import hints_of
from retrieval_index.progress import progress_bar


@dataclass(frozen=True)
class Evaluation(PlayConfig):
    """Play held-out tasks and report EM and F1 with 95% intervals, in all and per hop."""

    benchmark: str | None = None
    """A public benchmark instead of held-out tasks: nq, triviaqa, popqa, hotpotqa, 2wikimultihopqa,
    musique, bamboogle, squad, simpleqa, frames, gsm8k, math500, aime24, aime25, amc23, minerva or
    olympiadbench; their questions need --search. Or ours: ovd/fiction-v1 or ovd/arithmetic-v1."""
    count: int = 200
    """How many tasks, the first ones."""
    seed: int = 0
    """Decides what is sampled at a temperature above 0."""
    temperature: float = 0.0
    """0 is greedy."""
    samples: int = 1
    """How often each task is played; more than one gives pass@k and maj@k."""
    feedback: float | None = None
    """Also play with the teacher's feedback: a step that scores below this is sampled again."""
    tries: int = 2
    """How often a step may be sampled again, with feedback."""
    out: Path | None = None
    """Folder for result.json and episodes.jsonl."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Evaluation, arguments, __doc__ or "", options_of_run(arguments))
    if options.benchmark is not None:
        options = of_benchmark(options, options.benchmark)
    choice = options.held_out(options.count)
    scenario, tasks = choice.build()
    whole = None if options.benchmark is None else is_whole(options.benchmark, tasks)
    if whole is False:
        print(f"The file holds other questions than the whole of {options.benchmark}.")
    tasks = tasks[: options.count]
    print(describe_tasks(choice, len(tasks)))
    rollout, student = assemble_play(options, scenario)
    student.policy.seed(options.seed)
    result, trajectories = played(rollout, tasks, options)
    if options.feedback is not None:
        result["feedback"] = with_feedback(rollout, tasks, options, options.feedback)
    if options.out is not None:
        write_episodes(options.out / "episodes.jsonl", (each.episode for each in trajectories))
        matches = [each.episode.exact_match or 0.0 for each in trajectories]
        record = {
            "name": options.out.name,
            **result,
            "grades": packed_grades(matches, options.samples),
            "whole_set": whole,
            **provenance(options, tasks, student.precision),
        }
        write_atomically(options.out / "result.json", json.dumps(record, indent=2))
    title = f"{options.student} on {choice.name}"
    Console().print(table(result, title))
    if "feedback" in result:
        found = result["feedback"]
        Console().print(table(found, f"{title}, with the teacher's feedback"))
        print(
            f"{found['retried_steps']} steps were sampled again, for {found['scored_steps']} scores"
        )
    return 0


def played(
    rollout: Rollout, tasks: Sequence[Task], options: Evaluation
) -> tuple[dict[str, Any], list[Trajectory]]:
    """The figures and the plays, with a bar."""
    with progress_bar("playing", len(tasks) * options.samples, None) as advance:
        done = 0

        def finished(count: int) -> None:
            nonlocal done
            advance(count - done)
            done = count

        return evaluate(
            rollout,
            tasks,
            temperature=options.temperature,
            samples=options.samples,
            on_finished=finished,
        )


def with_feedback(
    rollout: Rollout, tasks: Sequence[Task], options: Evaluation, threshold: float
) -> dict[str, Any]:
    """The figures with the teacher's feedback, and what it cost."""
    scenario = rollout.scenario
    if scenario.teacher is None:
        raise OptionError("feedback needs a teacher: expected one, not none")
    before = scenario.costs.scores
    feedback = Feedback(threshold, options.tries)
    result, trajectories = played(replace(rollout, feedback=feedback), tasks, options)
    return {
        **result,
        "threshold": threshold,
        "tries": options.tries,
        "retried_steps": feedback.retried,
        "scored_steps": scenario.costs.scores - before,
        "student_tokens": sum(each.written_tokens for each in trajectories),
    }


def of_benchmark(options: Evaluation, name: str) -> Evaluation:
    """The options with the benchmark's tasks, in the environment that plays them."""
    env = MATH if benchmark(name).kind == "problems" else WEBQA
    same = options.environment().name == env
    return replace(options, eval_tasks=name, env=options.env if same else {"name": env})


def provenance(options: Evaluation, tasks: Sequence[Task], precision: str) -> dict[str, Any]:
    """What a figure is of: the options, which tasks, and the versions."""
    return {
        "benchmark": options.benchmark,
        "student_fingerprint": fingerprints(options.student, {}).get("student"),
        "precision": precision,
        "options": options.record(),
        "tasks_fingerprint": fingerprint(tasks),
        "versions": {
            "suite": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
        },
    }


def describe_tasks(choice: Any, count: int) -> str:
    """Which tasks are played, for people."""
    options = choice.options
    if options.tasks is not None:
        return f"{choice.name}: {count} tasks of {options.tasks}"
    shared = {*hints_of(Options), "search"}
    own = {name: value for name, value in vars(options).items() if name not in shared}
    said = "".join(f", {name}={value}" for name, value in own.items())
    return f"{choice.name}: {count} generated tasks, split={options.split}{said}"


def table(result: dict[str, Any], title: str) -> Table:
    shown = Table("hops", "episodes", "EM", "95%", "F1", "answered", title=title)
    for name, row in [*result["per_hop"].items(), ("all", result)]:
        shown.add_row(
            name,
            str(row["count"]),
            f"{row['em']:.3f}",
            f"{row['em_low']:.3f} to {row['em_high']:.3f}",
            f"{row['f1']:.3f}",
            f"{row['answered']:.2f}",
        )
    if samples := result.get("samples"):
        shown.columns[2].header = f"avg@{samples}"
        shown.caption = ", ".join(
            f"{name}@{k} {found['rate']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
            for name, rates in (("pass", result["pass_at"]), ("maj", result["maj_at"]))
            for k, found in rates.items()
            if int(k) in (1 << int(k).bit_length() - 1, samples)
        )
    return shown
