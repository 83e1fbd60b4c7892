"""Exact match and F1 of answers to questions, as SQuAD defines them (and Search-R1 uses them)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ARTICLE_WORDS = frozenset(("a", "an", "the"))


@lru_cache(maxsize=16_384)  # the same answers, queries and passages come again and again
def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD v1.1's evaluation)."""
    plain = text.lower().translate(_PUNCTUATION)
    words = plain.split()
    if not "".join(words).isalnum():  # an article may have a border inside a word: "the–end"
        return " ".join(_ARTICLES.sub(" ", plain).split())
    return " ".join([word for word in words if word not in _ARTICLE_WORDS])


def exact_match(answer: str, answers: Sequence[str]) -> float:
    """1.0 if `answer` equals one of `answers` after normalisation, else 0.0.

    Where nothing is left of an accepted answer ("A", "The The", "+") the texts are compared as they
    are: else any article would do.
    """
    given = normalize(answer)
    return float(any(_equal(answer, given, gold) for gold in answers))


def _equal(answer: str, given: str, gold: str) -> bool:
    wanted = normalize(gold)
    return given == wanted if wanted else answer.strip().lower() == gold.strip().lower()


def f1_score(answer: str, answers: Sequence[str]) -> float:
    """The best token F1 of `answer` against any of `answers`."""
    given = normalize(answer)
    return max(
        (
            _f1(given.split(), wanted.split())
            if (wanted := normalize(gold))
            else float(_equal(answer, given, gold))
            for gold in answers
        ),
        default=0.0,
    )


def _f1(given: list[str], gold: list[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    # SQuAD-style yes/no answers get no credit for overlap with longer text (HotpotQA's rule).
    if given != gold and {"yes", "no", "noanswer"} & {" ".join(given), " ".join(gold)}:
        return 0.0
    common = (Counter(given) & Counter(gold)).total()
    return 2 * common / (len(given) + len(gold))
