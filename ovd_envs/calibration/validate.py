"""Can tasks be played as they are? The gold answer must earn 1, an empty one nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ovd_envs.episode import Task
from ovd_envs.scenario import Scenario


def validate_tasks(scenario: Scenario, tasks: Sequence[Task]) -> list[str]:
    """One sentence for each thing wrong; an empty list if all is well.

    Checks that ids and prompts are unique, that every gold answer is graded right by the scenario,
    and that nothing said is graded wrong.
    """
    problems: list[str] = []
    ids: set[str] = set()
    prompts: dict[str, str] = {}
    for task in tasks:
        if task.id in ids:
            problems.append(f"task {task.id!r}: this id occurs twice")
        ids.add(task.id)
        twin = prompts.setdefault(task.prompt, task.id)
        if twin != task.id:
            problems.append(f"task {task.id!r}: the same text as task {twin!r}")
        if not task.answers:
            problems.append(f"task {task.id!r}: no answer is given")
        problems += [
            f"task {task.id!r}: its own answer {answer!r} is graded wrong"
            for answer in task.answers
            if scenario.grade(task, answer).exact_match != 1.0
        ]
        if scenario.grade(task, "").exact_match != 0.0:
            problems.append(f"task {task.id!r}: an empty answer is graded right")
    return problems
