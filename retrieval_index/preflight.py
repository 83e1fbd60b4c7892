"""Estimate what a build needs before it encodes, and refuse what does not fit.

Sizes follow from the number of passages and the types of the indexes; the time is that of a few
passages, times as many as there are.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval_index.approximate import bytes_per_vector, training_bytes
from retrieval_index.encoders import Encoder, HashingEncoder
from retrieval_index.flat import FACTORY
from retrieval_index.passages import TEXT_FILE, PassageStore

_SPARE_BYTES = 64 << 20
_PROCESS_BYTES, _MODEL_BYTES = 100 << 20, 500 << 20
"""Python with faiss, before it has read anything; and with torch and a small model."""
_ROW_BYTES = 40
"""Ids and offsets, which are held for every passage."""
_WORDS_DISK, _WORDS_MEMORY = 1, 7
"""BM25's bytes for each of the passages' (measured on generated and on real ones)."""
_SAMPLE = 32
_SAMPLED_FROM = 4096
"""Passages from which on the time is worth a sample."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes still to be written, bytes of memory at the peak, and seconds of encoding (None where
    they are few, or those of a cluster)."""

    disk: int
    memory: int
    seconds: float | None = None

    def __str__(self) -> str:
        sizes = f"{self.disk / 1e9:.1f} GB of disk, about {self.memory / 1e9:.1f} GB of memory"
        return sizes + (f", about {_duration(self.seconds)} of encoding" if self.seconds else "")


def estimate(folder: Path, encoder: Encoder, factory: str, bm25: bool, sample: bool) -> Needs:
    """What is needed to index the passages that `folder` stores; with `sample` some are encoded."""
    passages = PassageStore(folder)
    rows, dimension = len(passages), encoder.dimension
    text = (folder / TEXT_FILE).stat().st_size
    disk, peaks = 4 * rows * dimension, [0]
    if factory != FACTORY:
        index = rows * bytes_per_vector(factory, dimension)
        disk += index
        peaks.append(index + training_bytes(factory, dimension, rows))
    if bm25:
        disk += _WORDS_DISK * text
        peaks.append(_WORDS_MEMORY * text)
    hashing = isinstance(encoder, HashingEncoder)
    memory = _PROCESS_BYTES + (0 if hashing else _MODEL_BYTES) + _ROW_BYTES * rows + max(peaks)
    # A hashing encoder is slow only while most words are new to it.
    sample = sample and rows >= _SAMPLED_FROM and not hashing
    return Needs(disk, memory, _encoding_seconds(encoder, passages) if sample else None)


def check(needs: Needs, folder: Path) -> None:
    """Raises OSError where the disk has too little room, MemoryError where the machine has."""
    free = shutil.disk_usage(folder).free
    if free < needs.disk + _SPARE_BYTES:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB left and the index needs"
            f" {(needs.disk + _SPARE_BYTES) / 1e9:.1f} GB; make room, or choose another folder"
        )
    total = memory_size()
    if total is not None and total < needs.memory:
        raise MemoryError(
            f"this machine has {total / 1e9:.1f} GB of memory and the build needs about"
            f" {needs.memory / 1e9:.1f} GB; leave out words (--no-bm25), choose an index type with"
            " smaller vectors (--index), or build on a larger machine"
        )


def memory_size() -> int | None:
    """Bytes of memory that this process may use; None where the system does not say."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):
        return None
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()).isdigit():
        sizes.append(int(limit))
    return min(sizes)


def _encoding_seconds(encoder: Encoder, passages: PassageStore) -> float:
    rows = np.linspace(0, len(passages) - 1, _SAMPLE, dtype=int).tolist()
    texts = [passages[row].contents for row in rows]
    encoder.encode_passages(texts[:1])  # what the first call sets up is not counted
    began = time.perf_counter()
    encoder.encode_passages(texts)
    return (time.perf_counter() - began) / len(texts) * len(passages)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
