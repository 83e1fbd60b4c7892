"""Whether two mathematical answers have the same value.

Equal texts and plain quantities are compared here. The rest goes to `math-verify` in a separate
process (`ovd_envs.grading.worker`), because a model can write an answer whose value takes for ever
to compute. Answers are read as LaTeX and never evaluated as Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from ovd_envs.grading.expressions import exact_value
from ovd_envs.grading.quantities import Quantity, read_quantity, same_quantity
from ovd_envs.grading.tidy import tidy
from ovd_envs.grading.worker import verifier

MATH_CHARS = 500
"""A longer answer is wrong: the longest of MATH and OlympiadBench has about 200 characters."""

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}")
# Space between digits stays: "1 2" is not 12.
_DRESS = re.compile(r"\\?\$|\s+(?!\d)|(?<!\d)\s+")
_BOXED = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{")
_BARE_BOXED = re.compile(r"\\boxed\s+([^\s{}]+)")
_JOINED = re.compile(r"[\s,;$]*(?:and|or)?[\s,;$]*")
_CHOICE = re.compile(r"\(?([A-J])(?:\)|[.:]\s|\)?$)")
_COMPARED = re.compile(r"(?<![<>!=\\])=(?!=)")
_DEGREES = re.compile(
    r"\\(sin|cos|tan)\s*[({]?\s*(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?\s*[)}]?"
)
_TEN_TO_THE = re.compile(r"(\d(?:\.\d+)?)[eE]([+-]?\d{1,4})(?![\d.])")


def last_boxed(text: str) -> str:
    """What the last `\\boxed{…}` of a text holds, braces balanced; empty if there is none.

    Several in a row, joined by commas or "and", are a list.
    """
    found = _boxes(text)
    if not found:
        bare = _BARE_BOXED.findall(text)
        return bare[-1] if bare else ""
    first = len(found) - 1
    while first and _JOINED.fullmatch(text, found[first - 1][1], found[first][0]):
        first -= 1
    return ", ".join(held for _, _, held in found[first:])


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Where the outermost boxes begin and end, and what they hold; the innermost where nested."""
    found: list[tuple[int, int, str]] = []
    for match in _BOXED.finditer(text):
        depth = 1
        for place in range(match.end(), min(len(text), match.end() + MATH_CHARS)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                if found and found[-1][1] > match.start():
                    found.pop()  # this one stands inside it
                found.append((match.start(), place + 1, text[match.end() : place].strip()))
                break
    return found


def math_equal(answer: str, answers: Sequence[str]) -> bool:
    """Whether `answer` has the value of one of `answers`: see `math_grade`."""
    return math_grade(answer, answers)[0]


def math_grade(
    answer: str, answers: Sequence[str], within: Fraction = Fraction(0)
) -> tuple[bool, str]:
    """Whether `answer` has the value of one of `answers` (plain numbers, quantities or LaTeX), and
    how that was found: "text", "number" or "math-verify".

    Numbers may differ by `within`, where a set of problems says so. A unit or noun counts only
    where both have one; a base, too. An answer that is over-long or
    unreadable is not equal. Neither is one that takes too long to compare, or that math-verify
    fails on, but these are marked: "timeout", which ends the comparison, or "error".
    """
    if len(answer) > MATH_CHARS:
        return False, "text"
    given = _last_side(tidy(last_boxed(answer) or answer))
    if not given:
        return False, "text"
    golds = [tidy(last_boxed(gold) or gold) for gold in answers]
    if any(_same_text(given, gold) for gold in golds):
        return True, "text"
    source = "text"
    quantity = read_quantity(given)
    for gold in golds:
        equal, found = _compared(given, quantity, gold, within)
        if equal or found == "timeout":
            return equal, found
        source = source if source == "error" else found or source
    return False, source


def _compared(
    given: str, quantity: Quantity | None, gold: str, within: Fraction
) -> tuple[bool, str]:
    """Whether the texts have one value, and how that was found; "" where brackets tell."""
    other = read_quantity(gold)
    if quantity is not None and other is not None:
        return same_quantity(quantity, other, within), "number"
    given, gold = _for_verify(given, quantity), _for_verify(gold, other)
    if {_brackets(given), _brackets(gold)} == {"set", "tuple"}:
        return False, ""
    verdict = verifier.equal(given, gold)
    if verdict == "different" and re.search(r"[<>]|\\[lg]eq?\b", given):
        verdict = verifier.equal(gold, given)  # an inequality for an interval
    if verdict in ("timeout", "error"):
        return False, verdict
    return verdict == "equal", "math-verify"


def tolerance_of(error: object) -> Fraction:
    """By how much an answer may differ, as OlympiadBench's column `error` says it ("1e-1"); 0
    where it says nothing of one number."""
    try:
        found = Fraction(str(error).strip())
    except (ValueError, ZeroDivisionError):
        return Fraction(0)
    return max(found, Fraction(0))


def _last_side(text: str) -> str | None:
    """The last side of a chain of equal numbers ("2 + 3 = 5"); None where two sides differ."""
    sides = [side.strip() for side in _COMPARED.split(text)]
    values = [exact_value(side) for side in sides]
    if len(sides) < 2 or None in values:
        return text
    return sides[-1] if len(set(values)) == 1 else None


def _same_text(given: str, gold: str) -> bool:
    plain, other = _undress(given), _undress(gold)
    if plain == other or (len(other) > 1 and plain.lower() == other.lower()):
        return True
    letter = _CHOICE.match(_TEXT.sub(r"\1", given))
    return bool(letter) and len(other) == 1 and letter[1] == other


def _brackets(text: str) -> str:
    """Whether a text is a "set" in braces, a "tuple" or interval in brackets, or neither."""
    if text.startswith("\\{") and text.endswith("\\}"):
        return "set"
    return "tuple" if "," in text and text[0] in "([" and text[-1] in ")]" else ""


def _for_verify(text: str, quantity: Quantity | None) -> str:
    """A text as math-verify reads it rightly: no e-notation, no degrees, no magnitude words."""
    if quantity is not None and quantity.base is None and not quantity.percent:
        value = quantity.value
        if max(value.numerator.bit_length(), value.denominator.bit_length()) < 200:
            return str(value.numerator) if value.denominator == 1 else _fraction(value)
    text = _TEN_TO_THE.sub(r"\1 \\times 10^{\2}", text)
    return _DEGREES.sub(r"\\\1(\\frac{\2 \\pi}{180})", text)


def _fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _undress(text: str) -> str:
    """What is left of a tidied answer without styling and spaces."""
    text = _DRESS.sub("", _TEXT.sub(r"\1", text))
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").removesuffix(".")
