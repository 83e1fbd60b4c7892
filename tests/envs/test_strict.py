"""The strict form of exact match: what carries meaning stays, what carries none goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.errors import OptionError
from ovd_envs.grading.strict import strict_form, strict_match
from ovd_envs.grading.text import exact_match, f1_score
from ovd_envs.registry import make_scenario

CASES = Path(__file__).parents[3] / "shared" / "cases" / "qa_pairs.jsonl"

SAME = [
    ("2.5", "2.5"), ("an owl", "owl"), ("The Who", "Who"), ("Zoë", "Zoe"), ("Malmö", "Malmo"),
    ("GROSSE", "große"), ("O’Neil", "O'Neil"), ("„Tag“", "Tag"), ("«Oui»", "oui"),
    ("Tic–tac–toe", "tic-tac-toe"), ("tic tac toe", "Tic-Tac-Toe"), ("U. K.", "U.K."),
    ("UK", "U.K."), ("Q&A", "Q & A"), ("Q and A", "Q&A"), ("AC/DC", "AC DC"), ("2,500", "2500"),
    ("1939 to 1945", "1939-1945"), ("March 3, 2001", "2001-03-03"),
    ("3rd of March 2001", "3 March 2001"),
    ("three", "3"), ("Rocky III", "Rocky 3"), ("大阪。", "大阪"), ("「大阪」", "大阪"), 
    ("CO₂", "CO2"),
    ("30°C", "30 °C"), ("12 kilometers", "12 km"), ("A", "a"), ("Yes, it was", "yes"),
    ("John Smith, Jr.", "John Smith Jr"), ("🙂", "🙂"), ("Paris\u200b", "Paris"),
]  # fmt: skip
DIFFERENT = [
    ("2.5", "25"), ("-7", "7"), ("3/4", "34"), ("2-1", "21"), ("2:1", "21"), 
    ("C++", "C"), ("C#", "C"),
    ("A", "The The"), ("hepatitis B", "hepatitis"), ("vitamin A", "vitamin"), 
    ("not Paris", "Paris"),
    ("Paris or Rome", "Paris"), ("no", "yes"), ("yes and no", "yes"), ("type A", "type AB"),
    ("か", "が"), ("🙂", "🙃"), ("-", "A"), ("12 km", "12 miles"), ("June 5, 1990", "May 6, 1990"),
    ("", "Paris"), ("New York City", "New York"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_what_says_the_same(answer: str, gold: str) -> None:
    assert strict_match(answer, ["something else", gold]) == 1.0


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_what_says_something_else(answer: str, gold: str) -> None:
    assert strict_match(answer, [gold]) == 0.0


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here")
def test_agreement_with_people() -> None:
    rows = [json.loads(line) for line in CASES.read_text("utf-8").splitlines()]
    found = [(row, bool(strict_match(row["answer"], row["golds"]))) for row in rows]
    assert [row for row, equal in found if equal and not row["right"]] == []
    assert sum(equal == row["right"] for row, equal in found) >= 0.95 * len(rows)


@given(st.text(max_size=40))
def test_every_answer_equals_itself_and_forms_are_stable(text: str) -> None:
    assert strict_match(text, [text]) == 1.0
    assert "  " not in strict_form(text)


@pytest.mark.parametrize("gold", ["A", "The The", "!!!", "-", "+"])
def test_a_gold_of_which_squad_leaves_nothing_is_compared_as_text(gold: str) -> None:
    assert exact_match(gold.lower(), [gold]) == f1_score(gold, [gold]) == 1.0
    for other in ("the", "an", "!", "", "Paris"):
        assert exact_match(other, [gold]) == f1_score(other, [gold]) == 0.0


def test_the_grader_of_questions_is_an_option_and_says_which_it_was() -> None:
    for grader, equal, source in (("squad", 1.0, "text"), ("strict", 0.0, "strict")):
        scenario, tasks = make_scenario("ovd/WebQA-v0", count=1, grader=grader)
        grade = scenario.grade(tasks[0], f"{tasks[0].answers[0]}+")
        assert (grade.exact_match, grade.source) == (equal, source)
    with pytest.raises(OptionError, match=r"grader='lax': expected one of squad, strict"):
        make_scenario("ovd/WebQA-v0", grader="lax")
