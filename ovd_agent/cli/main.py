"""The `ovd` command: one line a subcommand, each imported when it is called."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module

from retrieval_index.errors import OVDError

COMMANDS = {
    "train": ("ovd_agent.cli.train", "train a student; resumes a run that was stopped"),
    "evaluate": ("ovd_agent.cli.evaluate", "EM and F1 of a student on held-out tasks"),
    "play": ("ovd_agent.cli.play", "watch a student play, or play yourself"),
    "compare": ("ovd_agent.cli.compare", "train arms over paired seeds and compare them"),
    "calibrate": ("ovd_agent.cli.calibrate", "measure whether a teacher's scores can be trusted"),
    "check-search": ("ovd_agent.cli.check_search", "does a search engine give answers away?"),
    "demonstrate": ("ovd_agent.cli.demonstrate", "fill a pool of demonstrations"),
    "doctor": ("ovd_agent.cli.doctor", "what this machine has, and what is missing"),
    "view": ("ovd_agent.cli.view", "look at a run in the browser, while it trains"),
    "report": ("ovd_agent.cli.report", "write a run's report.html again"),
    "train-scorer": ("ovd_agent.cli.train_scorer", "train a small model to judge steps"),
    "train-simulator": ("ovd_agent.cli.train_simulator", "train a model to play the engine"),
    "players": ("ovd_agent.cli.players", "watch scripted players, every step scored"),
    "score-table": ("ovd_agent.cli.score_table", "how the oracle's scores agree with correctness"),
    "serve-model": ("ovd_agent.cli.serve_model", "serve a student or a teacher by vLLM"),
    "serve-env": ("ovd_agent.cli.serve_env", "serve an environment by OpenEnv's protocol"),
    "index build": ("ovd_agent.cli.index_build", "build a passage index"),
    "index update": ("ovd_agent.cli.index_update", "add passages to an index, or delete some"),
    "index serve": ("ovd_agent.cli.index_serve", "serve an index over HTTP"),
    "index evaluate": ("ovd_agent.cli.index_evaluate", "recall, nDCG and speed of an index"),
}
Command = Callable[[Sequence[str]], int]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns its exit status.

    0: done; 1: a measured "no" (`ovd calibrate`); 2: bad options or a failed service; 130: Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        from ovd_envs import __version__  # pyright: ignore

        print(__version__)
        return 0
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return run(COMMANDS[name][0], words[length:], f"ovd {name}")
    print(f"ovd has no command {' '.join(words[:2])!r}\n\n{usage()}", file=sys.stderr)
    return 2


def run(module: str, arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command in `module`; every error of the suite is one sentence and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _set_up_logging()
    if prog is not None:
        sys.argv[0] = prog
    # Parts are named by module:Class from the folder where the command is run.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if threading.current_thread() is threading.main_thread():
        # As an exception, which ends the processes that a command has started.
        signal.signal(signal.SIGTERM, _terminated)
    try:
        command: Command = import_module(module).main
        return command(words)
    except (OVDError, FloatingPointError, MemoryError) as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        if (sentence := _of_files(error)) is None:
            raise
        print(sentence, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: rerun the same command to resume", file=sys.stderr)
        return 130


def _set_up_logging() -> None:
    """Warnings, or what OVD_LOG says: "info" also shows every retry."""
    level = os.environ.get("OVD_LOG", "warning").upper()
    if level not in logging.getLevelNamesMapping():
        raise SystemExit(f"OVD_LOG={level.lower()!r}: expected debug, info, warning or error")
    for package in ("ovd_envs", "ovd_agent", "retrieval_index"):
        ours = logging.getLogger(package)
        ours.setLevel(level)
        if not ours.handlers:  # on ours alone: other libraries say what they like
            ours.addHandler(_ToStderr())


class _ToStderr(logging.Handler):
    """Writes to what stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname} {record.name}: {record.getMessage()}", file=sys.stderr)


def _of_files(error: Exception) -> str | None:
    """One sentence for a failed read or write; None for another error. Libraries that write by
    themselves raise errors of their own when the disk is full."""
    full = "No space left on device" in str(error) or getattr(error, "errno", None) in _FULL
    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if full:
        return f"the disk is full{where}: free some space, and run the same command to resume"
    if isinstance(error, OSError) and error.errno in _READ_ONLY:
        return f"cannot be written{where}: {error.strerror}; choose another folder"
    return str(error) if isinstance(error, OSError) else None


def _terminated(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def usage() -> str:
    lines = [f"  {name:16} {what}" for name, (_, what) in COMMANDS.items()]
    head = "usage: ovd COMMAND [options]; `ovd COMMAND --help` lists the options\n"
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(main())
