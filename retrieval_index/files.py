"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from retrieval_index.errors import OVDError


def write_atomically(path: Path, content: str | bytes, *, errors: str = "strict") -> None:
    """Write bytes, or text as UTF-8, by a temporary file beside it and a rename.

    `errors` as for `str.encode`.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", errors)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(path: Path, held: OVDError) -> Generator[None]:
    """Hold a lock file, whose folder is made, while the body runs; a killed process lets go of it.

    Raises `held` if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise held from None
    try:
        yield
    finally:
        lock.release()
