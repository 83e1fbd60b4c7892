"""Exact match that keeps what SQuAD's form drops: signs, decimal points, letters of any script.

SQuAD's normalisation makes "3.5" equal "35" and "C++" equal "C", and "東京。" differ from "東京".
This form is Unicode-aware and deletes only what carries no meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from ovd_envs.grading.quantities import named_number, read_quantity

_DELETED = dict.fromkeys("'\"`´’‘“”„«»‹›「」『』《》〈〉\u200b\u200c\u200d\u2060\ufeff")
_SPELT = str.maketrans({**_DELETED, **dict.fromkeys("‐‑‒–—−﹣－", "-"), "&": " and ", "°": " ° "})
_INITIALS = re.compile(r"(?<!\w)(?:[^\W\d_]\.\s?){2,}")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_RANGE = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_INNER_SIGN = re.compile(r"(?<=\d)\s*([.:/-])\s*(?=\d)")
_SIGN = re.compile(r"(?<!\w)-(?=\.?\d)")
_OTHER = re.compile(r"[^\w+#°\s\x01-\x05]|_")
_KEPT = {".": "\x01", ":": "\x02", "/": "\x03", "-": "\x04"}
_NEGATIVE = "\x05"
_ARTICLES = ("a", "an", "the")
_ROMAN = re.compile(r"x{0,3}(?:ix|iv|v?i{0,3})")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)
_NUMBERED = {
    name: number for number, month in enumerate(_MONTHS, start=1) for name in (month, month[:3])
}


def strict_match(answer: str, answers: Sequence[str]) -> float:
    """1.0 if `answer` says what one of `answers` says, else 0.0."""
    return float(any(_same(answer, gold) for gold in answers))


def _same(answer: str, gold: str) -> bool:
    given, wanted = strict_form(answer), strict_form(gold)
    if not given or not wanted:
        return answer.strip().casefold() == gold.strip().casefold()
    if given == wanted or (wanted in ("yes", "no") and _first_word(given) == wanted):
        return True
    when, other = _date(given), _date(wanted)
    if when is not None and when == other:
        return True
    quantity, measured = read_quantity(answer), read_quantity(gold)
    return (
        quantity is not None
        and measured is not None
        and bool(quantity.unit)
        and quantity == measured
    )


@lru_cache(maxsize=16_384)
def strict_form(text: str) -> str:
    """Words between single spaces, without case, accents of European letters, quotation marks, a
    leading article, and punctuation that is no sign, decimal point or part of a name."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _without_accents(text).translate(_SPELT)
    text = _INITIALS.sub(lambda match: re.sub(r"[.\s]", "", match[0]) + " ", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _RANGE.sub("-", text)
    text = _SIGN.sub(_NEGATIVE, text)
    text = _INNER_SIGN.sub(lambda match: _KEPT[match[1]], text)
    words = _without_punctuation(text).split()
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    if (number := named_number(" ".join(words))) is not None:
        return str(number)
    return " ".join(_arabic(word, place) for place, word in enumerate(words))


def _without_accents(text: str) -> str:
    """Marks stay where they make another letter, as in Japanese or Hindi."""
    found: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.combining(character) and found and found[-1] < "\u0530":
            continue
        found.append(character)
    return unicodedata.normalize("NFC", "".join(found))


def _without_punctuation(text: str) -> str:
    """Punctuation becomes space; symbols, such as emoji, are words."""
    found = [
        each if not _OTHER.match(each) or unicodedata.category(each)[0] == "S" else " "
        for each in text
    ]
    return "".join(found)


def _arabic(word: str, place: int) -> str:
    """II as 2: only after another word, and only of I, V and X."""
    if place == 0 or len(word) < 2 or not _ROMAN.fullmatch(word):
        return word
    values = {"i": 1, "v": 5, "x": 10}
    digits = [values[letter] for letter in word]
    total = 0
    for here, following in zip(digits, [*digits[1:], 0], strict=True):
        total += -here if here < following else here
    return str(total)


def _first_word(text: str) -> str:
    words = text.split()
    return "" if {"yes", "no"} <= set(words) else words[0]


def _date(form: str) -> date | None:
    """A whole date: "june 5 1990", "5th of june 1990", "1990-06-05"."""
    parts = re.split(f"[{_KEPT['-']}{_KEPT['/']}\\s]+", form)
    words = [re.sub(r"(?<=\d)(?:st|nd|rd|th)$", "", part) for part in parts if part != "of"]
    if len(words) != 3:
        return None
    months = [word for word in words if word in _NUMBERED]
    numbers = [int(word) for word in words if word.isdecimal() and len(word) <= 4]
    try:
        if len(months) == 1 and len(numbers) == 2:
            day, year = sorted(numbers)
            return date(year, _NUMBERED[months[0]], day)
        if len(numbers) == 3 and len(words[0]) == 4:
            return date(*numbers)
    except ValueError:
        return None
    return None
