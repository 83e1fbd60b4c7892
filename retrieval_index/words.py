"""The words of a text: what BM25 indexes and what a passage is split by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

Words = Literal["folded", "segmented", "plain"]
"""How a text is cut into words. "segmented": Unicode's compatible forms are equal, and each
character of a script without spaces is a word. "folded": the same without accents. "plain": runs of
letters in lower case, as in indexes of version 0.1."""
WORDS: tuple[Words, ...] = get_args(Words)

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # Japanese syllables
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Scripts that are written without spaces, as ranges of a regular expression."""
_RUN = re.compile(r"\w+")
_SEGMENT = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W{UNSPACED}]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")
"""Marks of Latin, Greek and Cyrillic; those of other scripts are vowels."""
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe"})
"""Letters that Unicode does not take apart."""


def splitter(kind: Words) -> Callable[[str], list[str]]:
    """The function that lists the words of a text."""
    return {"folded": _folded, "segmented": _segmented, "plain": _plain}[kind]


def _plain(text: str) -> list[str]:
    return _RUN.findall(text.lower())


def _segmented(text: str) -> list[str]:
    if text.isascii():
        return _plain(text)
    return _SEGMENT.findall(unicodedata.normalize("NFKC", text).casefold())


def _folded(text: str) -> list[str]:
    return _plain(text) if text.isascii() else _segmented(fold(text))


def fold(text: str) -> str:
    """Lower case without accents: "Zürich", "ZURICH" and "İstanbul" as "zurich" and "istanbul"."""
    apart = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", apart)).translate(_LETTERS)
