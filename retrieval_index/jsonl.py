"""JSON Lines, plain or gzip: corpora, queries and tasks are all read here."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

_BOM = b"\xef\xbb\xbf"


def read_jsonl(path: Path, error: type[Exception]) -> Iterator[tuple[str, Any]]:
    """Every value, with "file, line n" for messages; blank lines and a byte-order mark are skipped.

    Raises `error` naming file and line for broken JSON, text that is not UTF-8, and damaged gzip.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _value(line, where, error)
    except (gzip.BadGzipFile, zlib.error, EOFError) as damage:
        raise error(
            f"{path}, after line {number}: damaged gzip ({damage}); fetch the file again"
        ) from None


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _value(line: bytes, where: str, error: type[Exception]) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        raise error(f"{where}: not UTF-8 ({wrong}); save the file as UTF-8") from None
    except (ValueError, RecursionError) as wrong:
        raise error(f"{where}: broken JSON: {wrong}") from None
