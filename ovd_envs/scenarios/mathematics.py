"""Mathematics, one step of reasoning a turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ovd_envs.episode import Episode, Task
from ovd_envs.grading.mathematics import last_boxed, math_grade, tolerance_of
from ovd_envs.grammar import Action, parse_action, render_error
from ovd_envs.options import Options
from ovd_envs.scenario import Grade, Response, Scenario
from ovd_envs.scenarios import MATH
from ovd_envs.tasks.arithmetic import Split, arithmetic_tasks
from ovd_envs.tasks.benchmarks import frozen_of, given_tasks
from ovd_envs.teachers import make_teacher
from ovd_envs.teachers.base import TeacherContext
from ovd_envs.teachers.rubrics import PROBLEM
from ovd_envs.wording import TAGS, TOOLS, call_of, worded

PROMPTS = {
    TAGS: (
        "Solve the problem. Write one step of reasoning in <think></think> a turn and finish with "
        "<answer>answer</answer>.\nProblem: {question}\n"
    ),
    TOOLS: (
        "Solve the problem. Write one step of reasoning in <think></think> a turn and finish with\n"
        f"{call_of('answer', 'answer')}\n"
        "Problem: {question}\n"
    ),
}
ADVICE = "Write <think>one step</think> to go on or <answer>answer</answer> to finish."


@dataclass(frozen=True, kw_only=True)
class MathOptions(Options):
    """Mathematics step by step."""

    max_turns: int = 4
    """An episode is truncated after this many turns."""
    max_invalid: int | None = None
    """End the episode after this many invalid actions. Each invalid action still uses one turn."""
    world_seed: int = 0
    """Which problems are generated."""
    levels: tuple[int, ...] = (1, 2, 3)
    """Steps that the generated problems need."""


class Math(Scenario):
    """Problems solved step by step; an action may also hold several steps and the answer.

    Models that were taught mathematics elsewhere are understood, too: where there is no tag, or
    only a thought before it, the last `\\boxed{…}` or the number after the last `####` is the
    answer.
    """

    stop_strings = ("</think>", "</answer>")
    rubric = PROBLEM

    def prompt(self, task: Task) -> str:
        return worded(self.options.prompt, task, PROMPTS)

    def parse(self, text: str) -> Action:
        action = parse_action(text)
        untagged = text if action.kind == "invalid" and not _ANY_TAG.search(text) else ""
        if action.kind == "think":  # then what follows the thought may be the answer
            untagged = text.rpartition("</think>")[2]
        if answer := last_boxed(untagged) or _after_hashes(untagged):
            return Action("answer", answer, thought=action.thought or text)
        return action

    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        return [_respond(action) for action in actions]

    def grade(self, task: Task, answer: str) -> Grade:
        within = tolerance_of(task.metadata.get("error"))
        equal, source = math_grade(answer, task.answers, within)
        return Grade(float(equal), float(equal), source)


def _respond(action: Action) -> Response:
    match action.kind:
        case "think":
            return Response("\n")
        case "answer":
            return Response()
        case "search":
            return Response(render_error("there is nothing to search here", ADVICE))
        case "invalid":
            return Response(render_error(action.content, ADVICE))


_ANY_TAG = re.compile(r"</?(?:think|search|information|answer)>")


def _after_hashes(text: str) -> str:
    return text.rpartition("####")[2].strip() if "####" in text else ""


def build(options: MathOptions) -> tuple[Math, Sequence[Task]]:
    """The scenario, and the tasks of `options`."""
    if (frozen := frozen_of(options.tasks)) is not None:
        return frozen.built(options, build)
    context = TeacherContext(MATH, Math.rubric, options.max_turns, options.score_levels)
    scenario = Math(options, make_teacher(options.teacher, context))
    if options.tasks is None:
        seed, levels = options.world_seed, options.levels
        return scenario, _generated(options.count, seed, options.split, levels)
    return scenario, given_tasks(options.tasks)


@lru_cache(maxsize=16)
def _generated(count: int, seed: int, split: Split, levels: tuple[int, ...]) -> Sequence[Task]:
    return tuple(arithmetic_tasks(count, seed=seed, split=split, levels=levels))
