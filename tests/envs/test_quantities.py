"""Answers as people and models write them: what a careful person accepts, what may not be paid."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.grading.expressions import exact_value
from ovd_envs.grading.mathematics import last_boxed, math_grade
from ovd_envs.grading.quantities import read_quantity
from ovd_envs.grading.tidy import tidy

CASES = Path(__file__).parents[3] / "shared" / "cases" / "math_pairs.jsonl"

RIGHT = {
    "noun": [("12 marbles", "12"), ("7 hens", "7"), ("1,250 dollars", "1250"), ("$9 a week", "9")],
    "currency": [("£4.50", "4.5"), ("-$7", "-7"), ("7$", "7"), ("€1,000", "1000"), ("9 USD", "9")],
    "e-notation": [
        ("6.02e23", r"6.02 \times 10^{23}"), ("6.02 × 10²³", "6.02e23"), ("4e3", "4000"),
        ("25e8", "2.5e9"), ("-2.5E-3", "-0.0025"), (r"7.1\cdot 10^{4}", "71000"),
    ],
    "percent": [("60%", "0.6"), (r"60\%", "60"), ("60 percent", r"60\%"), ("100%", "1")],
    "mixed": [("2 3/4", r"\frac{11}{4}"), (r"2\frac{3}{4}", "2.75"), ("3½", "3.5")],
    "words": [("twenty-one", "21"), (r"\text{nine}", "9"), ("two hundred and five", "205")],
    "magnitude": [("2 million", "2000000"), ("1.5 billion", "1500000000")],
    "unit": [
        ("42 km", "42"), ("42 km/h", "42 kilometers per hour"), ("5 min", r"5\text{ minutes}"),
        ("12", r"12\text{ cm}"), ("45°", r"45^\circ"), (r"8 \text{ m}^2", "8"),
        (r"9.8 \mathrm{~m} / \mathrm{s}^2", "9.8"),
    ],
    "base": [("101_{2}", "101_2"), ("101", "101_2")],
    "unicode": [("−4", "-4"), ("√5", r"\sqrt{5}"), ("3π", r"3\pi"), ("６", "6"), ("\u200b6", "6")],
    "phrase": [
        ("The answer is 42.", "42"), ("**42**", "42"), ("#### 42", "42"), 
        ("so the answer is 42", "42"),
        ("= 42", "42"), ("about 42", "42"), ("42 (forty-two)", "42"), 
        ("x = 42", "42"), ("42;", "42"),
    ],
    "boxed": [
        (r"\boxed 7", "7"), (r"\boxed{7} and \boxed{8}", "7,8"), (r"\fbox{7}", "7"),
        (r"\boxed{\text{it is } \boxed{7}}", "7"),
    ],
    "chain": [("3 + 4 = 7", "7"), (r"\frac{14}{2} = 7", "7")],
    "interval": [("x>4", r"(4,\infty)"), ("(-∞, 4]", r"x \le 4"), ("x ≥ 2", r"[2,\infty)")],
    "choice": [("B", "B"), ("(B)", "B"), ("B. 12 apples", "B"), (r"\text{(B)}", "B")],
    "list": [("3, 1, 2", "1,2,3"), ("1,2", r"\{1,2\}"), ("4 and 5", "4,5")],
    "matrix": [("[[1,2],[3,5]]", r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}")],
    "trigonometry": [(r"\sin 30^\circ", "0.5")],
}  # fmt: skip
WRONG = {
    "other value": [("12", "21"), ("-5", "5"), ("5!", "5"), ("0.33", r"\frac{1}{3}")],
    "e": [("13.5e", "2.7e5"), ("1e2", "2e1"), ("5e", "5"), ("2.7e-5", "1.5e-5")],
    "other base": [("101_3", "101_2"), ("11_2", "11_{16}"), ("77_8", "77")],
    "other unit": [
        ("12 kg", r"12\text{ g}"), ("5 hours", r"5\text{ minutes}"), ("5 m", "5 km"),
        ("5 cents", "5 dollars"),
    ],
    "magnitude": [("18 million", "18"), (r"18\text{ million}", "18"), ("12 thousand", "12")],
    "hedge": [
        ("12 or 13", "12"), ("12 and 13", "12"), ("12; 13", "12"), (r"5 \pm 1", "5"),
        ("not 12", "12"),
        ("12 to 13", "12"), (r"\boxed{3} then \boxed{5}", "3"), ("12 < x", "12"),
    ],
    "variable": [("5x", "5"), ("5 x", "5"), ("5i", "5"), (r"5\pi", "5")],
    "brackets": [("(1,2)", r"\{1,2\}"), ("[1,2]", "(1,2)"), ("(2,1)", "(1,2)")],
    "sentence": [
        ("55 sells 55", "55"), ("18 is not the answer", "18"), ("12 minus 3", "12"),
        ("5 of the six people who were there", "5"),
    ],
    "false chain": [("3 = 4", "4"), ("2 + 2 = 5", "5")],
    "tiny": [(r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), (r"\frac{1}{300!}", r"\frac{1}{299!}")],
    "percent": [("0.6%", "60"), ("1%", "100")],
    "grouping": [("12,34", "1234"), ("1 2", "12")],
    "choice": [("A", "B"), ("A and B", "A")],
}  # fmt: skip


def pairs(kinds):
    return [pytest.param(*pair, id=f"{kind}: {pair}") for kind in kinds for pair in kinds[kind]]


@pytest.mark.parametrize(("answer", "gold"), pairs(RIGHT))
def test_what_a_careful_person_accepts(answer: str, gold: str) -> None:
    assert math_grade(answer, [gold])[0]


@pytest.mark.parametrize(("answer", "gold"), pairs(WRONG))
def test_what_may_not_be_paid(answer: str, gold: str) -> None:
    assert not math_grade(answer, [gold])[0]


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here")
def test_agreement_with_people() -> None:
    rows = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
    found = [(row, math_grade(row["answer"], row["golds"])[0]) for row in rows]
    assert [row for row, equal in found if equal and not row["right"]] == []
    assert sum(equal == row["right"] for row, equal in found) >= 0.97 * len(rows)


@pytest.mark.parametrize("noun", "eggs dollars people students minutes points boxes pens".split())
@pytest.mark.parametrize("number", ["18", "1,234", "2.5", "0"])
def test_a_number_with_a_noun_is_that_number(number: str, noun: str) -> None:
    gold = number.replace(",", "")
    assert math_grade(f"{number} {noun}", [gold])[0]
    assert not math_grade(f"{number} {noun}", [str(Fraction(gold) + 1)])[0]


integers = st.integers(-(10**12), 10**12)


@given(integers, integers.filter(bool))
def test_exact_values_are_those_of_fractions(above: int, below: int) -> None:
    expected = Fraction(above, below)
    for text in (f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}", f"({above})/({below})"):
        assert exact_value(text) == expected
    assert exact_value(f"{above} - {below} * 2") == above - below * 2
    assert exact_value(f"({above})^2") == above * above


@given(st.text(alphabet="0123456789.,+-*/^!(){}eE \\fracx", max_size=40))
def test_reading_never_fails_and_never_takes_long(text: str) -> None:
    exact_value(text)
    read_quantity(tidy(text))


@pytest.mark.parametrize(
    "hostile", ["9^9^9^9", "99999^99999", "3000!!", "(" * 60 + "1" + ")" * 60, "1/0", "2^0.5"]
)
def test_hostile_expressions_are_not_computed(hostile: str) -> None:
    assert exact_value(hostile) is None


@given(st.text(max_size=60))
def test_a_tidied_text_is_one_line_without_space_around_it(text: str) -> None:
    once = tidy(text)
    assert once == once.strip()
    assert len(once.splitlines()) <= 1


@pytest.mark.parametrize(
    "gold", ["x^2+1", r"\frac{\pi}{3}", "(1,2)", "12 cm", "3.5", "2516_8", "x=5"]
)
@pytest.mark.parametrize("form", ["{}", "\\boxed{{{}}}", "#### {}", "${}$", "The answer is {}."])
def test_a_gold_accepts_itself_in_every_form(gold: str, form: str) -> None:
    assert math_grade(form.format(gold), [gold])[0]


def test_boxes_in_a_row_are_a_list_and_the_last_of_others_counts() -> None:
    assert last_boxed(r"\boxed{1}, \boxed{2} and \boxed{3}") == "1, 2, 3"
    assert last_boxed(r"first \boxed{1}, later \boxed{2}") == "2"
    assert last_boxed("none") == ""
