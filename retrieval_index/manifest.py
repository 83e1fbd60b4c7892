"""The manifest of an index generation, and the pointer to the live one.

    my_index/
      CURRENT                 name of the live generation
      gen-000001/
        manifest.json         written last: without it the generation does not exist
        corpus/part-00000.jsonl, corpus/part-00000.offsets.npy
        ids.npy               (id hash, row), sorted
        vectors/part-00000.f32.npy
        encoder/document_frequency.npy    what the hashing encoder learned from the corpus
        dense/index.faiss     proposes candidates, where the vectors are too many to scan
        bm25/                 term weights and vocabulary, as bm25s saves them

Every file of a generation is immutable once committed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_index.encoders import Precision
from retrieval_index.errors import REBUILD, IndexFileError
from retrieval_index.files import write_atomically
from retrieval_index.words import Words

SCHEMA_VERSION = 1
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
IDS_FILE = "ids.npy"
VECTORS_FILE = "vectors/part-00000.f32.npy"
ENCODER_FILE = "encoder/document_frequency.npy"
DENSE_FILE = "dense/index.faiss"
BM25_FOLDER = "bm25"
_GENERATION = re.compile(r"gen-\d{6,}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class CorpusRecord:
    """`sha256` is of the passages as stored, whatever file they came from."""

    source: str
    rows: int
    sha256: str
    chunk: int | None = None
    """Words that a passage was split at."""


@dataclass(frozen=True, slots=True)
class EncoderRecord:
    """`precision` is what the passages were encoded in, `cosine` the least of a sample of their
    vectors to those in float32."""

    name: str
    dimension: int
    fingerprint: str
    precision: Precision = "float32"
    cosine: float = 1.0
    query_prompt: str | None = None
    passage_prompt: str | None = None
    """Those that were given, and not the model's own."""


@dataclass(frozen=True, slots=True)
class DenseRecord:
    """`factory` is faiss's name of the index type. `parameters` say how far an approximate one
    looks and `candidates` how many it proposes for each passage wanted; `recall` (@10, against
    exact search) is what they had on `queries` sampled queries.
    """

    factory: str
    metric: str
    rows: int
    parameters: str = ""
    candidates: int = 1
    recall: float = 1.0
    queries: int = 0


@dataclass(frozen=True, slots=True)
class Bm25Record:
    k1: float
    b: float
    method: str
    stemmer: str
    words: Words = "plain"
    """How texts are cut into words."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    corpus: CorpusRecord
    encoder: EncoderRecord
    dense: DenseRecord
    files: tuple[FileRecord, ...]
    created: str
    versions: dict[str, str]
    bm25: Bm25Record | None = None
    """None where the index has dense vectors only."""
    truncated: int = 0
    """Passages that were longer than the encoder reads."""
    schema_version: int = SCHEMA_VERSION

    @property
    def fingerprint(self) -> str:
        """Says which passages, encoder and index type these are, and nothing of when, where or
        from which file they were built."""
        identity = [
            self.schema_version,
            self.corpus.sha256,
            # Not what was measured: the cosine to float32, the tuning.
            {name: getattr(self.encoder, name) for name in ("name", "dimension", "fingerprint")},
            *([self.encoder.precision] if self.encoder.precision != "float32" else []),
            {name: getattr(self.dense, name) for name in ("factory", "metric", "rows")},
            *([_identity(self.bm25)] if self.bm25 else []),
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """One phrase for messages."""
        return (
            f"{self.corpus.rows:,} passages of {self.corpus.source}"
            f" by encoder {self.encoder.name!r}, built {self.created}"
        )


def _identity(bm25: Bm25Record) -> dict[str, Any]:
    """As indexes had it that were built before words were an option."""
    fields = asdict(bm25)
    return fields if bm25.words != "plain" else {k: v for k, v in fields.items() if k != "words"}


def describe_files(folder: Path) -> tuple[FileRecord, ...]:
    """Size and hash of every file under `folder`, flushed to the disk on the way."""
    records: list[FileRecord] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        name = path.relative_to(folder).as_posix()
        records.append(FileRecord(name, path.stat().st_size, file_sha256(path)))
    return tuple(records)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(manifest: Manifest, generation: Path) -> None:
    record = {**asdict(manifest), "index_fingerprint": manifest.fingerprint}
    write_atomically(generation / MANIFEST, json.dumps(record, indent=2) + "\n")


def read_manifest(generation: Path) -> Manifest:
    """Raises IndexFileError for a missing, damaged or newer manifest."""
    path = generation / MANIFEST
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        version = data["schema_version"]
        if version > SCHEMA_VERSION:
            raise IndexFileError(
                f"{path}: written by a newer version (schema {version}, this one reads up to"
                f" {SCHEMA_VERSION}); upgrade ovd"
            )
        manifest = Manifest(
            CorpusRecord(**data["corpus"]),
            EncoderRecord(**data["encoder"]),
            DenseRecord(**data["dense"]),
            tuple(FileRecord(**record) for record in data["files"]),
            data["created"],
            data["versions"],
            Bm25Record(**data["bm25"]) if data.get("bm25") else None,
            data.get("truncated", 0),
            version,
        )
        intact = manifest.fingerprint == data["index_fingerprint"]
    except FileNotFoundError:
        raise IndexFileError(f"{path} is missing; {REBUILD}") from None
    except IndexFileError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise IndexFileError(f"{path} is damaged ({error!r}); {REBUILD}") from None
    if not intact:
        raise IndexFileError(f"{path} does not match its own fingerprint; {REBUILD}")
    return manifest


def check_files(manifest: Manifest, generation: Path, *, hashes: bool) -> None:
    """Compare every file's size, and with `hashes` its content, to the manifest."""
    for record in manifest.files:
        path = generation / record.path
        if not path.is_file():
            raise IndexFileError(f"{path} is missing; {REBUILD}")
        size = path.stat().st_size
        if size != record.bytes:
            raise IndexFileError(f"{path} has {size:,} bytes, expected {record.bytes:,}; {REBUILD}")
        if hashes and file_sha256(path) != record.sha256:
            raise IndexFileError(f"{path} is damaged (sha256 differs); {REBUILD}")


def load_array(path: Path) -> NDArray[Any]:
    """Memory-map an array of an index; nothing is read yet."""
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError) as error:
        raise IndexFileError(f"{path} is damaged ({error}); {REBUILD}") from None


def live_generation(index: Path) -> Path | None:
    """The folder that CURRENT names, or None where there is no index yet."""
    try:
        name = (index / CURRENT).read_text("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        name = ""
    if not _GENERATION.fullmatch(name) or not (index / name).is_dir():
        raise IndexFileError(f"{index / CURRENT} names no generation; {REBUILD}")
    return index / name


def commit(prepared: Path, index: Path) -> Path:
    """Move a finished generation into `index` and make it the live one; returns its folder.

    Of two processes that commit at once both succeed, and the last is live.
    """
    taken = [int(path.name.removeprefix("gen-")) for path in generations(index)]
    number = max(taken, default=0) + 1
    while True:
        generation = index / f"gen-{number:06d}"
        if not generation.exists():
            try:
                prepared.rename(generation)
                break
            except OSError:
                if not generation.exists():
                    raise
        number += 1
    point_to(generation, index)
    return generation


def point_to(generation: Path, index: Path) -> None:
    """Make a finished generation the live one."""
    write_atomically(index / CURRENT, generation.name + "\n")


def newest_generation(index: Path) -> Path:
    """The generation with the highest number, live or not."""
    return generations(index)[-1]


def generations(index: Path) -> list[Path]:
    """By age; a number is never used again."""
    found = (path for path in index.iterdir() if path.is_dir())
    return sorted(path for path in found if _GENERATION.fullmatch(path.name))
