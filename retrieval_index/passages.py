"""The passages of an index as JSON Lines, with the place of each: written once, read by row."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval_index.documents import Document
from retrieval_index.errors import REBUILD, IndexFileError
from retrieval_index.manifest import load_array

TEXT_FILE = "corpus/part-00000.jsonl"
OFFSETS_FILE = "corpus/part-00000.offsets.npy"


def write_passages(documents: Iterable[Document], folder: Path) -> int:
    """Store passages in `folder` for row access; returns their number."""
    (folder / TEXT_FILE).parent.mkdir(parents=True)
    offsets = array("q", [0])
    with (folder / TEXT_FILE).open("wb") as file:
        for document in documents:
            record = {"id": document.id, "title": document.title, "text": document.text}
            # ASCII, so that even a lone surrogate in a passage survives the trip.
            offsets.append(offsets[-1] + file.write(json.dumps(record).encode("ascii") + b"\n"))
    np.save(folder / OFFSETS_FILE, np.frombuffer(offsets, dtype=np.int64))
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
