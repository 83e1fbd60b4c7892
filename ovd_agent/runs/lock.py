"""One process at a time writes to a run's folder."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ovd_envs.errors import OptionError

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the folder while the body runs; a killed process lets go of it.

    Raises OptionError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OptionError(
            f"another process is training in {folder}: wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
