"""Passages as JSON Lines: reading a user's corpus, and the copy inside an index."""

from __future__ import annotations

import gzip
import json
import mmap
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from retrieval_index.documents import Document
from retrieval_index.errors import REBUILD, CorpusError, IndexFileError
from retrieval_index.manifest import load_array

TEXT_FILE = "corpus/part-00000.jsonl"
OFFSETS_FILE = "corpus/part-00000.offsets.npy"


def read_corpus(path: str | Path) -> Iterator[Document]:
    """Stream the passages of a `.jsonl` or `.jsonl.gz` file, one `{"id", "title", "text"}` a line.

    `title` may be absent and an id may be an integer; blank lines are passed over. Raises
    CorpusError naming file and line for a missing file, broken UTF-8 or JSON, a missing field and
    a duplicate id, and for an empty corpus.
    """
    source = check_corpus(path)
    lines_of_ids: dict[str, int] = {}
    try:
        with _open_binary(source) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                document = _parse(line, f"{source}:{number}")
                first = lines_of_ids.setdefault(document.id, number)
                if first != number:
                    raise CorpusError(
                        f"{source}:{number}: duplicate id {document.id!r}, first seen on line"
                        f" {first}; every passage needs its own"
                    )
                yield document
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(
            f"corpus {source}: not a whole gzip file ({error}); fetch it again"
        ) from None
    if not lines_of_ids:
        raise CorpusError(f"corpus {source}: no passages in it; expected one JSON object a line")


def check_corpus(path: str | Path) -> Path:
    """Raises CorpusError unless there is such a file; what is in it is not looked at."""
    source = Path(path)
    if not source.is_file():
        raise CorpusError(
            f"corpus {source}: no such file; expected JSON Lines (.jsonl or .jsonl.gz)"
        )
    return source


def check_passages(passages: Iterable[Document]) -> Iterator[Document]:
    """Pass on passages that come from a program, with the checks of `read_corpus`."""
    seen: set[str] = set()
    for number, passage in enumerate(passages):
        if not passage.id or not passage.contents.strip():
            raise CorpusError(f"passage {number}: has no id or no text")
        if passage.id in seen:
            raise CorpusError(f"passage {number}: duplicate id {passage.id!r}")
        seen.add(passage.id)
        yield passage
    if not seen:
        raise CorpusError("the corpus is empty: expected at least one passage")


def _open_binary(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _parse(line: bytes, where: str) -> Document:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: not UTF-8 ({error.reason}); save the corpus as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: broken JSON: {error}") from None
    if not isinstance(record, dict):
        raise CorpusError(f'{where}: expected a JSON object with "id", "title" and "text"')
    fields = cast(dict[str, Any], record)
    title = fields.get("title") or ""
    return Document(
        _text_field(fields, "id", where),
        _text_field({"title": title}, "title", where) if title else "",
        _text_field(fields, "text", where),
    )


def _text_field(fields: dict[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if name == "id" and type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f'{where}: "{name}" is missing or not a non-empty string')
    return value


def write_passages(documents: Iterable[Document], folder: Path) -> int:
    """Store passages in `folder` for row access; returns their number."""
    (folder / TEXT_FILE).parent.mkdir(parents=True)
    offsets = [0]
    with (folder / TEXT_FILE).open("wb") as file:
        for document in documents:
            record = {"id": document.id, "title": document.title, "text": document.text}
            # ASCII, so that even a lone surrogate in a passage survives the trip.
            offsets.append(offsets[-1] + file.write(json.dumps(record).encode("ascii") + b"\n"))
    np.save(folder / OFFSETS_FILE, np.array(offsets, dtype=np.int64))
    return len(offsets) - 1


class PassageStore:
    """The passages of an index by row, memory-mapped: opening reads nothing, and processes that
    open the same index share the pages."""

    def __init__(self, folder: Path) -> None:
        self._offsets: NDArray[np.int64] = load_array(folder / OFFSETS_FILE)
        with (folder / TEXT_FILE).open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if int(self._offsets[-1]) != len(self._text):
            raise IndexFileError(f"{folder / OFFSETS_FILE} does not fit {TEXT_FILE}; {REBUILD}")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Document:
        start, end = self._offsets[row : row + 2].tolist()
        return Document(**json.loads(self._text[start:end]))

    def __iter__(self) -> Iterator[Document]:
        return (self[row] for row in range(len(self)))
