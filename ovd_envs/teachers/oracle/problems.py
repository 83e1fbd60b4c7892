"""The oracle's rules of problems that are solved step by step.

| level | step of reasoning (mathematics)          | answer to a problem                     |
| ----: | ---------------------------------------- | --------------------------------------- |
|     9 | true, the next step that is missing      | right, every step was shown             |
|     8 | true, its result by another route        |                                         |
|     7 | true, a missing step out of order; or    |                                         |
|       | true where the steps are not known       |                                         |
|     6 | true, a later result by another route    | right, without (all) the work           |
|     5 | true, but no progress                    | right, after a false equation           |
|     4 | words without an equation                |                                         |
|     3 | says again what was said                 |                                         |
|     2 | false, with the numbers of a needed step | wrong, though every step was shown; or  |
|       |                                          | an empty thought                        |
|     1 | false                                    | wrong                                   |
|     0 | the action is invalid                    | the action is invalid                   |

The steps of a problem are `metadata["steps"]`, or the `<<a*b=c>>` marks that GSM8K has in
`metadata["solution"]`. Where there are neither, only the truth of equations is judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ovd_envs.episode import Episode, Task
from ovd_envs.grading.equations import Equation, find_equations
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.oracle.thoughts import Verdict, thought_of, thoughts_of, write_action

_TURNS = 8
"""A solution takes at most this many turns, unless `max_turns` says otherwise."""


def reason(episode: Episode, left: float, max_turns: int | None) -> str:
    """The next action, of which at most `left` are left."""
    task = episode.task
    steps, said = steps_of(task), thoughts_of(episode.turns)
    stated = {equation.key for equation in find_equations(said) if equation.true}
    missing = [step.text for step in steps if step.key not in stated]
    solution = str(task.metadata.get("solution", "")).strip()
    if not steps and solution and not said:
        missing = [solution]
    if not missing or left <= 1:
        return write_action("", "answer", task.answers[0])
    thoughts = (max_turns or _TURNS) - 1 - len(episode.turns)
    share = math.ceil(len(missing) / max(1, thoughts))
    return write_action("\n".join(missing[:share]), "answer", "")


def steps_of(task: Task) -> list[Equation]:
    """The known steps of a problem, each once."""
    steps: Any = task.metadata.get("steps")
    if steps is None:
        steps = re.findall(r"<<([^<>]*)>>", str(task.metadata.get("solution", "")))
    found = [equation for step in steps for equation in find_equations(step) if equation.true]
    return list({equation.key: equation for equation in found}.values())


def judge_problem(request: ScoreRequest) -> Verdict:
    if request.turn.kind == "search":
        return 0, "There is nothing to search here."
    thought = thought_of(request.turn)
    said = thoughts_of(request.episode.turns[: request.index])
    if request.turn.kind == "think":
        return _judge_step(steps_of(request.episode.task), said, thought)
    steps, everything = steps_of(request.episode.task), find_equations(f"{said}\n{thought}")
    stated = {equation.key for equation in everything if equation.true}
    shown = all(step.key in stated for step in steps) if steps else bool(said or thought)
    if request.episode.exact_match:
        if not all(equation.true for equation in everything):
            return 5, "Right, but something on the way was false."
        return (9, "Right, and worked out.") if shown else (6, "Right, but not worked out.")
    return (2, "Wrong, though the steps were right.") if shown and steps else (1, "Wrong.")


def _judge_step(steps: Sequence[Equation], said: str, thought: str) -> Verdict:
    if not thought.strip():
        return 2, "An empty thought."
    equations = find_equations(thought)
    for equation in equations:
        if not equation.true:
            planned = any(step.operands == equation.operands for step in steps)
            return 2 if planned else 1, f"False: {equation.text}."
    if not equations:
        return 4, "Words without an equation."
    earlier = {equation.key for equation in find_equations(said) if equation.true}
    stated = {equation.key for equation in equations}
    if stated <= earlier:
        return 3, "Says again what was said."
    if not steps:
        return 7, "True."
    missing = [step for step in steps if step.key not in earlier]
    if missing and missing[0].key in stated:
        return 9, "True, and the next step."
    results = {equation.result for equation in equations}
    if missing and missing[0].result in results:
        return 8, "True, and another way to the next number."
    if any(step.key in stated for step in missing):
        return 7, "True and needed, but not the next step."
    if any(step.result in results for step in missing):
        return 6, "True, and another way to a later number."
    return 5, "True, but no progress."
