"""Exact values of numeric expressions in plain text or LaTeX: + - * / ^ ! and nothing else."""

from __future__ import annotations

import re
from fractions import Fraction
from math import factorial

_MOST_BITS = 100_000
_MOST_EXPONENT, _MOST_FACTORIAL = 10_000, 3_000
_MOST_TOKENS, _DEEPEST = 200, 40
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4}(?![\d.]))?"
_TOKEN = re.compile(rf"\s*({_NUMBER}|\\[dtc]?frac|\\times|\\cdot|\\div|[-+*/^!(){{}}×·÷])")


class _NoNumber(Exception):
    """Not a numeric expression, or one that is too large."""


def exact_value(text: str) -> Fraction | None:
    """The value; None where the text is anything but a numeric expression of bounded size."""
    tokens: list[str] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or len(tokens) > _MOST_TOKENS:
            return None
        tokens.append(match[1])
        place = match.end()
    if not any(token[0] in "0123456789." for token in tokens):
        return None
    try:
        return _Reader(tokens).whole()
    except (_NoNumber, ZeroDivisionError, ValueError):
        return None


def leading_expression(text: str) -> tuple[str, str]:
    """The longest beginning of a text that may be a numeric expression, and the rest."""
    place, depth, end = 0, 0, 0
    while match := _TOKEN.match(text, place):
        token, place = match[1], match.end()
        depth += (token in "({") - (token in ")}")
        if depth == 0 and (token[0] in "0123456789." or token in ")}!"):
            end = place
    return text[:end].strip(), text[end:]


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._place, self._depth = [*tokens, ""], 0, 0

    def whole(self) -> Fraction:
        value = self._sum()
        if self._tokens[self._place]:
            raise _NoNumber
        return value

    def _next(self, *tokens: str) -> str:
        token = self._tokens[self._place]
        if token not in tokens:
            return ""
        self._place += 1
        return token

    def _sum(self) -> Fraction:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NoNumber
        value = self._product()
        while sign := self._next("+", "-"):
            other = self._product()
            value = _bounded(value + other if sign == "+" else value - other)
        self._depth -= 1
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while sign := self._next("*", "/", "\\times", "\\cdot", "\\div", "×", "·", "÷"):
            other = self._signed()
            value = _bounded(value / other if sign in ("/", "\\div", "÷") else value * other)
        return value

    def _signed(self) -> Fraction:
        if self._next("-"):
            return -self._signed()
        self._next("+")
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        while self._next("!"):
            if base.denominator != 1 or not 0 <= base <= _MOST_FACTORIAL:
                raise _NoNumber
            base = Fraction(factorial(int(base)))
        if not self._next("^"):
            return base
        exponent = self._group() if self._tokens[self._place] == "{" else self._signed()
        if exponent.denominator != 1 or abs(exponent) > _MOST_EXPONENT:
            raise _NoNumber
        if base.numerator.bit_length() * abs(int(exponent)) > _MOST_BITS:
            raise _NoNumber
        if base.denominator.bit_length() * abs(int(exponent)) > _MOST_BITS:
            raise _NoNumber
        return _bounded(base ** int(exponent))

    def _atom(self) -> Fraction:
        token = self._tokens[self._place]
        if token in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"):
            self._place += 1
            above = self._group()
            return _bounded(above / self._group())
        if token == "(":
            self._place += 1
            value = self._sum()
            if not self._next(")"):
                raise _NoNumber
            return value
        if token == "{":
            return self._group()
        if not token or token[0] not in "0123456789.":
            raise _NoNumber
        self._place += 1
        return _bounded(Fraction(token.replace(",", "")))

    def _group(self) -> Fraction:
        """What stands in braces."""
        if not self._next("{"):
            raise _NoNumber
        value = self._sum()
        if not self._next("}"):
            raise _NoNumber
        return value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise _NoNumber
    return value
