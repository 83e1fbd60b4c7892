"""Whether a passage says an answer: one definition for measures, teachers and prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from retrieval_index.words import UNSPACED, fold

_ABBREVIATION = re.compile(r"\b(?:[^\W\d_]\.)+(?:[^\W\d_]\b)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_APOSTROPHES = re.compile("['\u2019`]")
_TOKEN = re.compile(rf"\d+(?:\.\d+)+|(?=\w)[{UNSPACED}]|[^\W{UNSPACED}]+|[+#%]")
_ARTICLES = frozenset(("a", "an", "the"))
_VERDICTS = frozenset(("yes", "no", "noanswer"))


def mentions(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of `answers` as whole words.

    Case, accents, articles, apostrophes and most punctuation do not matter: "the U.S." is said by
    "US" and "twenty-one" by "twenty one", while "3.5" is not said by "35". A text never says "yes"
    or "no": that it has the word is no answer to a question.
    """
    words = _words(text)
    return any(_said(answer, text, words) for answer in answers)


def _said(answer: str, text: str, words: str) -> bool:
    wanted = _words(answer)
    if not wanted.strip():  # "The The", "!!!"
        return bool(answer.strip()) and answer.strip().lower() in text.lower()
    return wanted.strip() not in _VERDICTS and wanted in words


@lru_cache(maxsize=16_384)  # the same answers and passages come again and again
def _words(text: str) -> str:
    """Words between single spaces, so that "art" is not found in "party"."""
    plain = _APOSTROPHES.sub("", text.lower() if text.isascii() else fold(text))
    plain = _ABBREVIATION.sub(lambda found: found[0].replace(".", ""), plain)
    tokens = _TOKEN.findall(_THOUSANDS.sub("", plain))
    return f" {' '.join(token for token in tokens if token not in _ARTICLES)} "
