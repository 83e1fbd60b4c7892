"""Is an answer right? Exact match and F1 for questions, equality of values for mathematics.

`exact_match` and `f1_score` are SQuAD's (as Search-R1 uses them). `math_equal` compares plain
numbers and equal texts itself, and asks `math-verify` about the rest in a separate process, because
a model can write an answer whose value takes for ever to compute: that process ends after
`MATH_SECONDS` of work, whatever it is doing, and is started anew. Answers are read as LaTeX and
never evaluated as Python.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import re
import signal
import string
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

MATH_SECONDS = 2.0
"""Processor time for one comparison: a busy machine changes no verdict. Real ones take 0.2 s."""
MATH_CHARS = 500
"""A longer answer is wrong: the longest of MATH and OlympiadBench has about 200 characters."""
_WORKER_BYTES = 4 << 30

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
    """1.0 if `answer` equals one of `answers` after normalisation, else 0.0."""
    given = normalize(answer)
    return float(any(given == normalize(gold) for gold in answers))


def mentions(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds one of `answers`, as whole words after normalisation."""
    words = f" {normalize(text)} "
    return any(f" {normalize(answer)} " in words for answer in answers)


def f1_score(answer: str, answers: Sequence[str]) -> float:
    """The best token F1 of `answer` against any of `answers`."""
    given = normalize(answer).split()
    return max((_f1(given, normalize(gold).split()) for gold in answers), default=0.0)


def _f1(given: list[str], gold: list[str]) -> float:
    if not given or not gold:
        return float(given == gold)
    # SQuAD-style yes/no answers get no credit for overlap with longer text (HotpotQA's rule).
    if given != gold and {"yes", "no", "noanswer"} & {" ".join(given), " ".join(gold)}:
        return 0.0
    common = (Counter(given) & Counter(gold)).total()
    return 2 * common / (len(given) + len(gold))


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
            equal = _verifier.equal(answer, gold)
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


class _Verifier:
    """The process that runs math-verify; started when first needed, shared by all threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def equal(self, answer: str, gold: str) -> bool | None:
        """The verdict, or None if it took too long."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start_worker()
            reply = ""
            try:
                reply = _ask(self._process, json.dumps([answer, gold]))
            finally:
                if not reply:  # too slow, or we were interrupted: no late reply may be read later
                    self.close()
            return reply == "true\n" if reply else None

    def close(self) -> None:
        """End the worker, if there is one; the next comparison starts another."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def forget(self) -> None:
        """After a fork: the worker is the parent's, and a thread that held the lock is gone."""
        self._process, self._lock = None, threading.Lock()


def _start_worker() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from ovd_envs.rewards import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="ascii",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        start_new_session=True,  # Ctrl-C is for the caller
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        _end(process)
        raise RuntimeError("comparing mathematics needs math-verify: pip install math-verify")
    return process


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """The worker's reply, empty if it ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline()
    return ""


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


_verifier = _Verifier()
atexit.register(_verifier.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_verifier.forget)


def serve() -> None:
    """The worker's loop: a line of JSON `[answer, gold]` in, `true` or `false` out.

    It ends when its caller has gone, or in the middle of a comparison that takes too long.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # nothing a library prints may pass for a reply
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system can do it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, _WORKER_BYTES))
    _verify("\\frac{1}{2}", "0.5")  # imports and tables are loaded before any clock runs
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        _end_after(MATH_SECONDS)
        try:
            equal = _verify(*json.loads(line))
        except Exception:
            equal = False
        _end_after(0)
        print(json.dumps(equal), file=replies, flush=True)


def _end_after(seconds: float) -> None:
    """End this process after so many seconds of its processor time, even in the middle of one
    endless operation; 0 stops the clock. Windows can only measure wall time."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
    elif seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def _verify(answer: str, gold: str) -> bool:
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs]

    equal: Callable[..., bool] = verify
    return equal(_parse(gold), _parse(answer), timeout_seconds=None)


def _parse(text: str) -> list[Any]:
    """What LaTeX says. math-verify's reader of plain expressions is not used: it evaluates them
    as Python, and takes a number from anywhere ("the answer is not 5")."""
    from math_verify import LatexExtractionConfig, parse  # pyright: ignore[reportMissingTypeStubs]

    read: Callable[..., list[Any]] = parse
    text = text.replace("\\$", "")
    delimited = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
    extraction = (LatexExtractionConfig(),)
    return read(text if delimited else f"${text}$", extraction, parsing_timeout=None)
