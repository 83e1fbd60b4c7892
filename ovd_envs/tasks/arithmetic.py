"""Seeded word problems whose level is the number of steps, for students of any size.

Every quantity stays in 0..99 and the vocabulary is small, so that a model of two million
parameters can learn them. A problem's numbers and operations, not its wording, decide its split:
no test problem is a training problem in other words.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError

Split = Literal["train", "test"]
LARGEST = 99
CHANGE = 30
"""The most that one step adds or takes away."""
TEST_SHARE = 5
"""One problem in this many belongs to the test split."""

_NAMES = "Ada Ben Cora Dan Eva Finn Gina Hal Ida Jack Kim Leo Mia Ned Olga Paul Rosa Sam Tina Will"
_OBJECTS = "apples balls beads books cards coins cups eggs flowers marbles nuts pens shells stamps"
NAMES, OBJECTS = _NAMES.split(), _OBJECTS.split()

START = ("{name} has {a} {things}.", "{name} starts with {a} {things}.")
BAGS = ("{name} has {a} bags of {b} {things} each.", "{name} buys {a} boxes of {b} {things} each.")
CHANGES = {
    "+": ("{name} buys {b} more.", "{name} finds {b} more.", "{name} gets {b} more."),
    "-": ("{name} loses {b}.", "{name} gives away {b}.", "{name} sells {b}."),
    "*": ("Then the number is multiplied by {b}.", "Then {name} has {b} times as many."),
    "/": ("{name} splits them equally among {b} boxes and keeps one box.",),
}
DOUBLE = ("Then the number doubles.", "Then {name} has twice as many.")
QUESTION = "How many {things} does {name} have now?"


@dataclass(frozen=True, slots=True)
class Step:
    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


def arithmetic_tasks(
    count: int,
    *,
    seed: int = 0,
    split: Split = "train",
    levels: Sequence[int] = (1, 2, 3),
) -> list[Task]:
    """`count` different problems, the levels in turn. `metadata` has "steps" (["14+8=22", ...])
    and "solution" (the same, worked in a line)."""
    if count < 0:
        raise OptionError(f"count={count}: expected 0 or more")
    if split not in ("train", "test"):
        raise OptionError(f"split={split!r}: expected 'train' or 'test'")
    if not levels or min(levels) < 1:
        raise OptionError(f"levels={tuple(levels)}: expected numbers of steps, each at least 1")
    rng = random.Random(f"arithmetic {split} {seed}")
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        steps = _draw(rng, levels[len(tasks) % len(levels)])
        text = _tell(steps, rng)
        if _split(steps) == split and text not in tasks:
            tasks[text] = _task(f"arithmetic-{split}-{seed}-{len(tasks)}", text, steps)
    return list(tasks.values())


def _draw(rng: random.Random, level: int) -> list[Step]:
    """Random steps, each going on from the result of the one before."""
    steps: list[Step] = []
    value = rng.randint(2, 60)
    if rng.random() < 0.25:
        first, second = rng.randint(2, 9), rng.randint(2, 9)
        value = first * second
        steps.append(Step(first, "*", second, value))
    while len(steps) < level:
        step = _change(value, rng)
        if step is not None:
            steps.append(step)
            value = step.result
    return steps


def _change(value: int, rng: random.Random) -> Step | None:
    """One operation on `value`, or None if the one drawn has no small whole result."""
    [operator] = rng.choices("+-*/", weights=(4, 4, 1, 2))
    if operator == "+" and value < LARGEST:
        other = rng.randint(1, min(CHANGE, LARGEST - value))
        return Step(value, "+", other, value + other)
    if operator == "-" and value > 0:
        other = rng.randint(1, min(CHANGE, value))
        return Step(value, "-", other, value - other)
    other = rng.randint(2, 5)
    if operator == "*" and 0 < value * other <= LARGEST:
        return Step(value, "*", other, value * other)
    if operator == "/" and value > 0 and value % other == 0:
        return Step(value, "/", other, value // other)
    return None


def _tell(steps: Sequence[Step], rng: random.Random) -> str:
    words = {"name": rng.choice(NAMES), "things": rng.choice(OBJECTS)}
    first = steps[0]
    bags = first.operator == "*" and first.left <= 9 and first.right <= 9 and rng.random() < 0.8
    sentences = [rng.choice(BAGS if bags else START).format(a=first.left, b=first.right, **words)]
    for step in steps[1:] if bags else steps:
        wordings = CHANGES[step.operator]
        if step.operator == "*" and step.right == 2:
            wordings = (*wordings, *DOUBLE)
        sentences.append(rng.choice(wordings).format(b=step.right, **words))
    return " ".join([*sentences, QUESTION.format(**words)])


def _split(steps: Sequence[Step]) -> str:
    digest = hashlib.blake2b(" ".join(map(str, steps)).encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def _task(task_id: str, text: str, steps: Sequence[Step]) -> Task:
    answer = str(steps[-1].result)
    lines = [str(step) for step in steps]
    solution = ". ".join([*lines, f"The answer is {answer}."])
    return Task(task_id, text, (answer,), len(steps), (), {"steps": lines, "solution": solution})
