"""Files that are seen whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


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
