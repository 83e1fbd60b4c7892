"""Mathematics as an environment, and the equations that are found in what a student writes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.episode import Episode, Task
from ovd_envs.grading.equations import find_equations
from ovd_envs.scenarios.mathematics import Math, MathOptions, build

TASK = Task("t", "Half of a third?", ("1/6", r"\frac{1}{6}"))


def play(*actions: str, **options: Any) -> Episode:
    scenario = Math(MathOptions(**{"max_turns": 8, **options}), None)
    [episode] = scenario.begin([TASK])
    for action in actions:
        scenario.advance([episode], [action])
    return episode


def test_thoughts_and_an_answer() -> None:
    episode = play("<think>1/3/2=1/6</think>", r"<answer>\frac{2}{12}</answer>")
    assert "Half of a third?" in episode.prompt
    assert [turn.kind for turn in episode.turns] == ["think", "answer"]
    assert [turn.observation for turn in episode.turns] == ["\n", ""]
    assert (episode.exact_match, episode.f1) == (1.0, 1.0)
    assert [turn.reward for turn in episode.turns] == [0.0, 1.0]


def test_all_in_one_action() -> None:
    episode = play("<think>1/3=x</think><think>x/2</think><answer>1/7</answer>")
    assert episode.terminated
    assert (episode.exact_match, episode.turns[0].reward) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("<search>1/6</search>", "there is nothing to search here"),
        ("I give up", "no <think>"),
        (r"<think>so it is \boxed{1/6}", "<think> is not closed"),
        ("<answer></answer>", "<answer> is empty"),
    ],
)
def test_what_can_not_be_done_is_explained(action: str, why: str) -> None:
    episode = play(action)
    assert not episode.done
    assert f"Invalid action: {why}" in episode.turns[0].observation
    assert "<answer>answer</answer>" in episode.turns[0].observation


@pytest.mark.parametrize(
    "action",
    [
        r"Half of it, so \boxed{\frac{1}{6}}.",
        r"First \boxed{7}, no: \boxed{\frac{1}{6}}",
        "It is 7.\n#### 1/6",
        r"<think>easy</think><answer>The answer is \boxed{1/6}</answer>",
        "<think>half</think>\n\nThe answer is \\boxed{\\frac{1}{6}}.",  # as R1 and Qwen3 write
        "half</think>\n\nThe answer is \\boxed{1/6}.",  # where the chat template opens the thought
        "<think>half</think>\n#### 1/6",
    ],
)
def test_answers_as_other_models_write_them(action: str) -> None:
    episode = play(action)
    assert (episode.end_reason, episode.exact_match) == ("answered", 1.0)


def test_truncated_at_max_turns() -> None:
    episode = play("<think>a</think>", "<think>b</think>", max_turns=2)
    assert (episode.truncated, episode.terminated, episode.exact_match) == (True, False, 0.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("14+8=22", [("14+8=22", True)]),
        ("so 14 + 8 = 23.", [("14 + 8 = 23", False)]),
        ("2*3=6, then 6-1=4", [("2*3=6", True), ("6-1=4", False)]),
        ("(2+3)*4=20", [("(2+3)*4=20", True)]),
        ("2+3*4=14", [("2+3*4=14", True)]),
        ("20-5-5=10", [("20-5-5=10", True)]),
        ("3--2=5", [("3--2=5", True)]),
        ("2 × 3 = 6", [("2 * 3 = 6", True)]),
        (r"2 \times 3 = 6 and 6 \div 4 = 1.5", [("2 * 3 = 6", True), ("6 / 4 = 1.5", True)]),
        ("$5+$1=$6", [("5+1=6", True)]),
        ("1,000+1=1,001", [("1000+1=1001", True)]),
        ("100/3=33.33", [("100/3=33.33", True)]),
        ("100/3=33.3", [("100/3=33.3", True)]),
        ("100/3=33", [("100/3=33", False)]),
        ("50%*4=2", [("50/100*4=2", True)]),
        ("5/0=0", [("5/0=0", False)]),
        ("3 x 4 = 12", [("3*4 = 12", True)]),
        ("x+3+4=7", []),
        ("1 1/2+2=3.5", []),
        ("2+3=5\n3+4=7", [("2+3=5", True), ("3+4=7", True)]),
        ("5 apples\n1 1/2+2=3.5", []),
        ("2+3=5*1", []),
        ("2^3+1=9", []),
        ("22", []),
        ("a=b", []),
        ("(2+3=5", []),
    ],
)
def test_equations_are_found_and_checked(text: str, found: list[tuple[str, bool]]) -> None:
    assert [(equation.text, equation.true) for equation in find_equations(text)] == found


NUMBERS = st.integers(0, 10**6)


@given(NUMBERS, st.sampled_from("+-*"), NUMBERS, st.integers(-2, 2))
def test_truth_is_arithmetic(left: int, sign: str, right: int, error: int) -> None:
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    [equation] = find_equations(f"We get {left} {sign} {right} = {result + error}.")
    assert equation.true == (error == 0)
    assert equation.result == result + error
    assert equation.operands == tuple(sorted((left, right)))


def test_the_order_of_operands_makes_no_other_step() -> None:
    [one], [other] = find_equations("8+14=22"), find_equations("14 + 8 = 22")
    assert one.key == other.key
    [wrong] = find_equations("8+14=23")
    assert wrong.key != one.key


@given(st.text("0123456789.+-*/()=^ x$,%\\times{}\n", max_size=80))
def test_any_text_is_read(text: str) -> None:
    for equation in find_equations(text):
        assert isinstance(equation.true, bool)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000,
        "1+" * 50_000,
        "9" * 100_000,
        "-" * 50_000 + "1=1",
        "1 " * 50_000,
        "1+1=" * 20_000,
    ],
)
def test_long_texts_take_little_time(text: str) -> None:
    started = time.process_time()
    find_equations(text)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("error", "answer", "right"),
    [
        ("1e-1", "3.24", True),
        ("1e-1", "3.25", True),
        ("1e-1", "3.26", False),
        (0.1, "3.1", True),
        (None, "3.14", False),
        (None, "3.15", True),
        ("", "3.14", False),
        ("1e-1,1e-2", "3.14", False),  # of several answers, which is not one number
        ("-1", "3.14", False),
        ("1e-1", "3.24 kg", False),
    ],
)
def test_a_set_may_say_how_exact_an_answer_must_be(error, answer, right):
    """OlympiadBench's column `error`; whatever else a row has is metadata."""
    scenario, _ = build(MathOptions(count=1))
    task = Task(
        "t", "?", ("3.15\\text{ g}" if "kg" in answer else "3.15",), metadata={"error": error}
    )
    assert scenario.grade(task, answer).exact_match == float(right)
