"""Generated problems: worked solutions are true, levels are steps, seeds decide everything."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from ovd_envs.episode import Task
from ovd_envs.grading.equations import find_equations
from ovd_envs.grading.mathematics import math_equal
from ovd_envs.tasks.arithmetic import arithmetic_tasks

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@pytest.fixture(scope="module")
def problems() -> list[Task]:
    return arithmetic_tasks(900, levels=(1, 2, 3, 6))


def _steps(task: Task) -> list[tuple[int, str, int, int]]:
    found = [STEP.fullmatch(step) for step in task.metadata["steps"]]
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found if m]


def test_every_step_is_true_and_goes_on_from_the_last(problems: list[Task]) -> None:
    for task in problems:
        steps = _steps(task)
        assert len(steps) == len(task.metadata["steps"])
        for left, sign, right, result in steps:
            exact = {
                "+": Fraction(left + right),
                "-": Fraction(left - right),
                "*": Fraction(left * right),
                "/": Fraction(left, right),
            }
            assert exact[sign] == result
            assert 0 <= result <= 99
        assert all(before[3] == after[0] for before, after in pairwise(steps))
        assert math_equal(task.answers[0], [str(steps[-1][3])])


def test_the_worked_solution_ends_in_the_answer(problems: list[Task]) -> None:
    for task in problems:
        solution = task.metadata["solution"]
        equations = find_equations(solution)
        assert [equation.text for equation in equations] == task.metadata["steps"]
        assert all(equation.true for equation in equations)
        assert solution.endswith(f"The answer is {task.answers[0]}.")


def test_the_level_is_the_number_of_steps(problems: list[Task]) -> None:
    assert Counter(task.hops for task in problems) == {1: 225, 2: 225, 3: 225, 6: 225}
    for task in problems:
        assert len(task.metadata["steps"]) == task.hops


def test_the_problem_says_the_numbers_and_not_the_answer(problems: list[Task]) -> None:
    for task in problems:
        said = set(re.findall(r"\d+", task.prompt))
        needed = {str(_steps(task)[0][0])} | {str(step[2]) for step in _steps(task)}
        doubled = {"2"} if re.search("doubles|twice", task.prompt) else set[str]()
        assert said | doubled == needed | (said & {"2"})


def test_the_seed_decides() -> None:
    tasks = arithmetic_tasks(50, seed=3)
    assert tasks == arithmetic_tasks(50, seed=3)
    assert tasks[:20] == arithmetic_tasks(20, seed=3)
    assert not {task.prompt for task in tasks} & {
        task.prompt for task in arithmetic_tasks(50, seed=4)
    }


def test_all_operations_and_no_problem_twice(problems: list[Task]) -> None:
    assert {step[1] for task in problems for step in _steps(task)} == set("+-*/")
    assert len({task.prompt for task in problems}) == len({task.id for task in problems}) == 900


def test_no_test_problem_is_a_training_problem_in_other_words() -> None:
    train, test = (
        {tuple(task.metadata["steps"]) for task in arithmetic_tasks(1500, split=split)}
        for split in ("train", "test")
    )
    assert not train & test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "count=-1: expected 0 or more"),
        ({"count": 1, "split": "dev"}, "split='dev': expected 'train' or 'test'"),
        ({"count": 1, "levels": ()}, r"levels=\(\): expected"),
        ({"count": 1, "levels": (0,)}, r"levels=\(0,\): expected"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arithmetic_tasks(**options)
