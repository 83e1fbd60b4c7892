"""An answer without what it is dressed in: delimiters, styling, phrases, typography."""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    **dict.fromkeys("−–—‒﹣－", "-"),
    **{"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/", "⁄": "/", "∕": "/"},
    **{"π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "±": "\\pm "},
    **{"∪": "\\cup ", "∩": "\\cap ", "∅": "\\emptyset ", "∈": "\\in ", "°": "^\\circ "},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "≈": "\\approx "},
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5"},
    **{"⅛": " 1/8", "⅜": " 3/8", "⅝": " 5/8", "⅞": " 7/8"},
}
_TYPOGRAPHY = str.maketrans(_SIGNS)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-"))
_POWER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:[\u00a0\u2009\u202f ]\d{3})+(?!\d)")
_STYLE = re.compile(r"(?<!\\)\\(?:(?:left|right|displaystyle|limits)(?![a-z])|[!:])|\*\*|__|`")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;\s]|quad(?![a-z])|qquad(?![a-z]))|~")
_DELIMITED = re.compile(
    r"\$\$(?P<a>.*)\$\$|\$(?P<b>[^$]*[^$\\])\$|\\\((?P<c>.*)\\\)|\\\[(?P<d>.*)\\\]", re.DOTALL
)
_PHRASE = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+|my\s+)?(?:final\s+|correct\s+)?"
    r"(?:answer|result|value|total|solution)\s*(?:is|equals|:|=)\s*:?\s*",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(?:about|approximately|roughly|around|\\approx|\\sim|=|:|#+)\s*", re.IGNORECASE
)
_GLOSS = re.compile(r"(.*\d\S*)\s+\((?=[A-Za-z])[^()]*\)")
_ROWS = re.compile(r"\[\s*(\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])+)\s*\]")


def tidy(text: str) -> str:
    """The same answer in plain LaTeX or text, on one line."""
    text = _POWER.sub(lambda match: f"^{{{''.join(_RAISED[each] for each in match[0])}}}", text)
    text = text.translate(_TYPOGRAPHY)
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = unicodedata.normalize("NFKC", text).replace("{,}", ",")
    text = " ".join(_SPACE.sub(" ", _STYLE.sub("", text)).split())
    before = None
    while text != before:
        before = text
        text = _undressed(text)
    if rows := _ROWS.fullmatch(text):
        lines = re.findall(r"\[([^\[\]]*)\]", rows[1])
        inside = " \\\\ ".join(line.replace(",", " & ") for line in lines)
        text = f"\\begin{{pmatrix}} {inside} \\end{{pmatrix}}"
    return re.sub(r"\+\s*-", "-", text)


def _undressed(text: str) -> str:
    """One layer off."""
    text = text.strip().rstrip(".,;: ").strip()
    if match := _DELIMITED.fullmatch(text):
        return next(part for part in match.groups() if part is not None)
    for phrase in (_PHRASE, _ABOUT):
        if match := phrase.match(text):
            return text[match.end() :]
    if match := _GLOSS.fullmatch(text):
        return match[1]
    return text
