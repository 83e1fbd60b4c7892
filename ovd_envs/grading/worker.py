"""The process that runs math-verify, ended after `MATH_SECONDS` of work and restarted."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal

log = logging.getLogger(__name__)
MATH_SECONDS = 2.0
"""Processor time for one comparison: a busy machine changes no verdict. Real ones take 0.2 s."""
_WORKER_BYTES = 4 << 30
Verdict = Literal["equal", "different", "timeout", "error"]
"""No verdict: it took too long, or math-verify failed."""
_VERDICTS: dict[str, Verdict] = {"true": "equal", "false": "different", "null": "error"}


class Verifier:
    """The process that runs math-verify; started when first needed, shared by all threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def equal(self, answer: str, gold: str) -> Verdict:
        """The verdict, or why there is none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start_worker()
            reply = ""
            try:
                reply = _ask(self._process, json.dumps([answer, gold]))
            finally:
                if not reply:  # too slow, or we were interrupted: no late reply may be read later
                    log.info("comparing %.60r with %.60r did not end in time", answer, gold)
                    self.close()
            return _VERDICTS.get(reply.strip(), "timeout")

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
        [sys.executable, "-c", "from ovd_envs.grading.worker import serve; serve()"],
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


verifier = Verifier()
atexit.register(verifier.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=verifier.forget)


def serve() -> None:
    """The worker's loop: a line of JSON `[answer, gold]` in, `true`, `false` or, where math-verify
    fails, `null` out.

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
            equal = None
        _end_after(0)
        print(json.dumps(equal), file=replies, flush=True)


def _end_after(seconds: float) -> None:
    """End this process after this many seconds of processor time, even in the middle of one
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
