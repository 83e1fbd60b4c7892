"""Whether two mathematical answers have the same value.

Plain numbers and equal texts are compared here. The rest goes to `math-verify` in a separate
process (`ovd_envs.grading.worker`), because a model can write an answer whose value takes for ever
to compute. Answers are read as LaTeX and never evaluated as Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ovd_envs.grading.worker import verifier

MATH_CHARS = 500
"""A longer answer is wrong: the longest of MATH and OlympiadBench has about 200 characters."""

_NUMBER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)?(\.\d+)?(?:/(\d+))?")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}")
# Space between digits stays: "1 2" is not 12.
_DRESS = re.compile(r"\\(?:(?:left|right)(?![a-z])|[!,;\s])|\\?\$|\s+(?!\d)|(?<!\d)\s+")


_BOXED = re.compile(r"\\boxed\s*\{")


def last_boxed(text: str) -> str:
    """What the last `\\boxed{…}` of a text holds, braces balanced; empty if there is none."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    for start in reversed(starts):
        depth = 1
        for place in range(start, min(len(text), start + MATH_CHARS)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start:place].strip()
    return ""


def math_equal(answer: str, answers: Sequence[str]) -> bool:
    """Whether `answer` has the value of one of `answers`: see `math_grade`."""
    return math_grade(answer, answers)[0]


def math_grade(answer: str, answers: Sequence[str]) -> tuple[bool, str]:
    """Whether `answer` has the value of one of `answers` (plain numbers, fractions or LaTeX), and
    how that was found: "text", "number", "math-verify", or "timeout".

    An answer that is over-long or unreadable is not equal; neither is one that takes too long to
    compare, but that one is marked.
    """
    if len(answer) > MATH_CHARS:
        return False, "text"
    answer = last_boxed(answer) or answer
    given = _undress(answer)
    golds = {gold: _undress(gold) for gold in answers}
    if not given or given in golds.values():
        return bool(given), "text"
    number = parse_number(given)
    numbers = {gold: parse_number(text) for gold, text in golds.items()}
    if number is not None and number in numbers.values():
        return True, "number"
    source = "number"
    for gold in golds:
        if number is None or numbers[gold] is None:
            equal = verifier.equal(answer, gold)
            if equal:
                return True, "math-verify"
            source = "timeout" if equal is None or source == "timeout" else "math-verify"
    return False, source


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain integer, decimal or fraction ("1,234", "-0.5", "1/3")."""
    match = _NUMBER.fullmatch(text) if len(text) <= MATH_CHARS else None
    if match is None or not (match[2] or match[3]) or (match[4] and not int(match[4])):
        return None
    whole = (match[2] or "0").replace(",", "")
    return Fraction(f"{match[1]}{whole}{match[3] or ''}") / int(match[4] or 1)


def _undress(text: str) -> str:
    """What is left of an answer without LaTeX's spacing and styling."""
    text = _DRESS.sub("", _TEXT.sub(r"\1", text))
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").removesuffix(".")
