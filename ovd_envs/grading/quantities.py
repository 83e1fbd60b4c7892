"""Numbers as people write them: exact values, units, bases, magnitude words.

A plain quantity ("18 eggs", "$1,234.50", "3.83 \\times 10^{35}", "2516_8", "1 1/2") is read here,
exactly. What is none goes to math-verify.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ovd_envs.grading.expressions import exact_value, leading_expression


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value; `unit` is canonical, "" if there is none.

    The value of a numeral with a `base` is that of its digits in base ten: a numeral without a base
    may mean the same.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    base: int | None = None


def same_quantity(given: Quantity, gold: Quantity, within: Fraction = Fraction(0)) -> bool:
    """Whether a careful person takes one for the other, where values may differ by `within`.

    A unit counts where both have one. A percentage is its number or its hundredth, whichever the
    other means.
    """
    if given.unit and gold.unit and given.unit != gold.unit:
        return False
    if given.base is not None and given.base != gold.base:
        return False
    if given.percent == gold.percent:
        return abs(given.value - gold.value) <= within
    bare, share = (gold, given) if given.percent else (given, gold)
    return bare.value in (share.value, share.value / 100)


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a tidied text is; None if it is anything else."""
    text = _TEXT.sub(lambda match: f" {match[1]} ", text).replace("~", " ").strip()
    if match := _BASE.fullmatch(text):
        return Quantity(Fraction(int(match[1])), base=int(match[2] or match[3]))
    if (named := named_number(text)) is not None:
        return Quantity(named)
    sign, text, unit = _currency(text)
    body, rest = leading_expression(text)
    value = _value(body)
    if value is None:
        return None
    percent = _PERCENT.match(rest)
    rest = rest[percent.end() :] if percent else rest
    factor, words = _magnitude(rest.strip(" -,"))
    if words and not _is_unit(words, attached=rest[:1] not in " -,"):
        return None
    return Quantity(sign * value * factor, bool(percent), unit or _canonical(words))


_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname|rm)\s*\{\s*([^{}]*?)\s*\}")
_BASE = re.compile(r"(\d{1,100})_(?:\{(\d{1,3})\}|(\d{1,3}))")
_PERCENT = re.compile(r"\s*(?:\\?%|per ?cent\b)")
_UNIT = re.compile(r"[A-Za-z°¢^\\/][A-Za-z.°/²³^{}\\ -]*")
_EXPONENT = re.compile(r"\^\s*\{?\s*-?\d\s*\}?")
_MIXED = re.compile(
    r"([+-]?)(\d{1,20})(?:\s+|\s*(?=\\frac)|-)"
    r"(?:(\d{1,20})\s*/\s*(\d{1,20})|\\frac\s*\{(\d{1,20})\}\s*\{(\d{1,20})\})"
)
_MONEY = re.compile(
    r"([-+]?)\s*(?:\\?\$|£|€|¥|₹|USD\b|EUR\b|GBP\b)\s*([-+]?)(.*)|(.*?)\s*(\\?\$|£|€|¥|₹)"
)
_CURRENCIES = {
    **{"$": "dollar", "\\$": "dollar", "USD": "dollar", "£": "pound", "GBP": "pound"},
    **{"€": "euro", "EUR": "euro", "¥": "yen", "₹": "rupee"},
}


def _value(body: str) -> Fraction | None:
    if match := _MIXED.fullmatch(body):
        whole = Fraction(int(match[2]))
        below = int(match[4] or match[6])
        part = Fraction(int(match[3] or match[5]), below) if below else None
        if part is None or part >= 1:
            return None
        return (whole + part) * (-1 if match[1] == "-" else 1)
    return exact_value(body)


def _currency(text: str) -> tuple[int, str, str]:
    """The sign before a currency, the text without it, and the canonical currency."""
    match = _MONEY.fullmatch(text)
    if match is None:
        return 1, text, ""
    if match[3] is None:
        return 1, match[4], _CURRENCIES[match[5]]
    symbol = text[len(match[1]) :].strip()
    name = next(name for name in _CURRENCIES if symbol.startswith(name))
    negative = "-" in (match[1], match[2])
    return -1 if negative else 1, match[3].strip(), _CURRENCIES[name]


_MAGNITUDES = {
    **{"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9},
    "trillion": 10**12,
}


def _magnitude(words: str) -> tuple[int, str]:
    """The factor that magnitude words at the beginning stand for, and the words after them."""
    factor, rest = 1, words.strip()
    while match := re.match(r"(hundred|thousand|million|billion|trillion)s?\b[ -]*", rest):
        factor, rest = factor * _MAGNITUDES[match[1]], rest[match.end() :]
    return factor, rest


_UNITS = {
    "meter": "m metre meter", "kilometer": "km kilometre kilometer",
    "centimeter": "cm centimetre centimeter", "millimeter": "mm millimetre millimeter",
    "gram": "g gm gram gramme", "kilogram": "kg kilogram", "milligram": "mg milligram",
    "liter": "l L litre liter", "milliliter": "ml mL millilitre milliliter",
    "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day",
    "week": "wk week", "month": "month", "year": "yr year", "inch": "in inch inches",
    "foot": "ft foot feet", "yard": "yd yard", "mile": "mi mile", "pound": "lb pound",
    "ounce": "oz ounce", "degree": "degree deg ° \\circ ^\\circ ^{\\circ}", "cent": "cent ¢ c",
    "dollar": "dollar USD buck usd", "euro": "euro EUR", "percent": "percent",
    "newton": "N newton", "joule": "J joule", "watt": "W watt", "volt": "V volt",
    "ampere": "A amp ampere", "kelvin": "K kelvin", "hertz": "Hz hertz", "pascal": "Pa pascal",
    "ohm": "ohm", "mile / hour": "mph", "mole": "mol mole", "radian": "rad radian", "erg": "erg",
}  # fmt: skip
_NAMES = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_NO_UNITS = {
    *(
        "pi",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "sqrt",
        "exp",
        "infty",
        "or",
        "and",
        "to",
        "is",
        "are",
    ),
    *("was", "not", "no", "but", "if", "than", "plus", "minus", "times", "equals"),
}
_MOST_WORDS = 5


def _is_unit(words: str, *, attached: bool) -> bool:
    """Whether words after a number are a noun or a unit, and no product of variables."""
    words = _EXPONENT.sub("", words).strip()
    if not _UNIT.fullmatch(words) or "\\" in words.replace("\\circ", ""):
        return False
    plain = re.findall(r"[A-Za-z]+", words)
    if len(plain) > _MOST_WORDS or any(word.lower() in _NO_UNITS for word in plain):
        return False
    if attached or words in _NAMES or not plain:
        return words in _NAMES
    first = plain[1] if plain[0] in ("a", "an") and len(plain) > 1 else plain[0]
    return len(first) > 1 or first in _NAMES


def _canonical(words: str) -> str:
    """A unit by one name: "kms" and "kilometres" are "kilometer"; other nouns in the singular."""
    found: list[str] = []
    for word in re.findall(r"[A-Za-z°¢]+|\^?\{?\\circ\}?|[\^\d/²³]+", words.replace(".", "")):
        single = word[:-1] if len(word) > 2 and word.endswith("s") and word not in _NAMES else word
        if single in ("of", "per", "/"):
            single = "/"
        found.append(_NAMES.get(word) or _NAMES.get(single) or single.lower())
    return " ".join(found)


_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {
    **{word: number for number, word in enumerate(_SMALL)},
    **{word: 10 * number for number, word in enumerate(_TENS, start=2)},
}


def named_number(text: str) -> Fraction | None:
    """The value of number words: "eighteen", "two hundred and five"."""
    words = re.findall(r"[a-z]+", text.lower())
    if not words or re.search(r"[^A-Za-z ,-]", text) or len(words) > 12:
        return None
    total, part = 0, 0
    for word in words:
        if word == "and" and (total or part):
            continue
        if word in _WORDS:
            part += _WORDS[word]
        elif word == "hundred":
            part = max(1, part) * 100
        elif word in _MAGNITUDES and (part or total):
            total, part = total + part * _MAGNITUDES[word], 0
        else:
            return None
    return Fraction(total + part)
