"""The equations found in what a student thinks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_SAME = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "$": None, ",": None, "%": "/100"})
_NUMBER = r"(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})"
# Every repeat is bounded, which keeps the search linear, the numbers small and the parser shallow.
_TERM = rf"[-(]{{0,8}}{_NUMBER}[)\s]{{0,8}}"
_AFTER = r"(?! {0,4}(?:[-+*/^] {0,4}[\d(]|\.? ?\\[a-z!]|[\d!])|[({])"
_EQUATION = re.compile(
    rf"(?<![\w.^)}}|])({_TERM}(?:[-+*/]\s{{0,4}}{_TERM}){{1,12}})=\s{{0,4}}((?>-?{_NUMBER})){_AFTER}"
)
# In "x + 3 + 4 = 7", or "1 1/2 + 2 = 3.5", what was matched is not the whole left side.
_GOES_ON = re.compile(r"(?:[\w)}!]\s*[-+*/^]\s*|(?:^|[^= \d.]) *\d+ +|\\[a-z]+ *)$")
_TIMES = re.compile(r"\\(?:times|cdot)|(?<=[\d)]) ?x ?(?=[\d(])")
_LATEX = re.compile(r"\\(?:(div)(?![a-z])|(?=[%$]))")
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/()]")


@dataclass(frozen=True, slots=True)
class Equation:
    """`text` as written; `operands` sorted, so that 8+14=22 and 14+8=22 have the same `key`."""

    text: str
    operands: tuple[Fraction, ...]
    result: Fraction
    true: bool

    @property
    def key(self) -> tuple[tuple[Fraction, ...], Fraction]:
        return self.operands, self.result


def find_equations(text: str) -> list[Equation]:
    """Every "numbers and + - * / = number" in a text. Nothing is executed.

    A result with decimals may be rounded or cut in its last place (100/3=33.33). To divide by
    zero is false.
    """
    if "=" not in text:
        return []
    text = _LATEX.sub(lambda match: "/" if match[1] else "", _TIMES.sub("*", text))
    text = text.translate(_SAME)
    found = [
        _equation(match[0].strip(), match[1], match[2])
        for match in _EQUATION.finditer(text)
        if not _GOES_ON.search(text[max(0, match.start() - 12) : match.start()])
    ]
    return [equation for equation in found if equation is not None]


def _equation(text: str, left: str, right: str) -> Equation | None:
    tokens: list[str] = _TOKEN.findall(left)
    operands = tuple(sorted(Fraction(token) for token in tokens if token[-1].isdigit()))
    result = Fraction(right)
    try:
        error = abs(_Parser(tokens).whole() - result)
    except ValueError:
        return None
    except ZeroDivisionError:
        return Equation(text, operands, result, False)
    places = len(right.partition(".")[2])
    rounded = places > 0 and error < Fraction(1, 10**places)
    return Equation(text, operands, result, error == 0 or rounded)


class _Parser:
    """Recursive descent over the tokens of a left side."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.place = 0

    def whole(self) -> Fraction:
        """The value. Raises ValueError if the tokens are no expression."""
        value = self._sum()
        if self.tokens[self.place]:
            raise ValueError(f"unexpected {self.tokens[self.place]!r}")
        return value

    def _take(self, tokens: str) -> str:
        token = self.tokens[self.place]
        if not token or token not in tokens:
            return ""
        self.place += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._take("+-"):
            value += self._product() if sign == "+" else -self._product()
        return value

    def _product(self) -> Fraction:
        value = self._atom()
        while sign := self._take("*/"):
            value = value * self._atom() if sign == "*" else value / self._atom()
        return value

    def _atom(self) -> Fraction:
        if self._take("-"):
            return -self._atom()
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise ValueError("unclosed bracket")
            return value
        self.place += 1
        return Fraction(self.tokens[self.place - 1])
