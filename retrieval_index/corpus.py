"""Reading a corpus: JSON Lines, Parquet, Arrow, TSV, a folder of such files, or one on the Hub.

A passage is a record of `id`, `title` (may be absent) and `text`. `_id` (BEIR) is taken for `id`,
and `contents`, a quoted title on a line of its own and the text (Search-R1, FlashRAG, pyserini),
for both others. The first line of a TSV file names its columns (DPR: id, text, title). Of a BEIR
folder, which holds queries and judgements too, only corpus.jsonl is read.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import importlib.util
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError, MissingPackageError
from retrieval_index.jsonl import read_jsonl
from retrieval_index.manifest import file_sha256
from retrieval_index.words import UNSPACED

HUB = "hub:"
TSV = (".tsv", ".tsv.gz")
FORMATS = (".jsonl", ".jsonl.gz", ".parquet", ".arrow", *TSV)
BEIR_FILES = ("corpus.jsonl", "corpus.jsonl.gz")
EXPECTED = f"expected a file or a folder of {', '.join(FORMATS)}, or hub:NAME[/CONFIG][:SPLIT]"
_BATCH = 1024
_SENTENCE = re.compile(r"\S.*?(?:[.!?]+(?=\s)|[。！？]+|\Z)", re.DOTALL)
_CHUNK_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
"""What counts as a word where passages are split; in scripts without spaces, a character."""

Source = str | Path
"""A file, a folder, or `hub:org/name[/config][:split]`."""
Records = Iterator[tuple[str, Any]]
"""Where a record stands, for messages, and the record."""


def read_corpus(source: Source) -> Iterator[Document]:
    """Stream the passages of a corpus; memory does not grow with it.

    Blank lines are passed over and an id may be an integer. Raises CorpusError, naming file and
    line or row, for a missing file, broken UTF-8 or JSON, a missing field, and an empty corpus.
    """
    none = True
    for where, record in _records(source):
        none = False
        yield _document(record, where)
    if none:
        raise CorpusError(f"corpus {source}: no passages in it")


def check_corpus(source: Source) -> None:
    """Raises CorpusError unless there is such a corpus; what is in it is not looked at."""
    if not _on_hub(source):
        _files(Path(source))
    elif importlib.util.find_spec("datasets") is None:
        raise MissingPackageError("datasets", f"corpus {source}")


def corpus_name(source: Source) -> str:
    """What an index says it was made of: no folder of the machine that built it."""
    return str(source) if _on_hub(source) else Path(source).name


def corpus_fingerprint(source: Source) -> str:
    """Changes whenever the corpus does."""
    if _on_hub(source):
        return str(getattr(_dataset(source), "_fingerprint"))  # noqa: B009 (private to pyright)
    hashes = [file_sha256(file) for file in _files(Path(source))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def check_passages(passages: Iterable[Document]) -> Iterator[Document]:
    """Pass on passages that come from a program, with the checks of `read_corpus`."""
    none = True
    for number, passage in enumerate(passages):
        none = False
        if not passage.id or not passage.contents.strip():
            raise CorpusError(f"passage {number}: has no id or no text")
        yield passage
    if none:
        raise CorpusError("the corpus is empty: expected at least one passage")


def split_passages(passages: Iterable[Document], words: int | None) -> Iterator[Document]:
    """Passages of more than `words` words as several, each as many whole sentences as fit; the
    n-th piece of passage "x" has the id "x#n". None leaves them whole."""
    for passage in passages:
        pieces = _pieces(passage.text, words) if words else [passage.text]
        if len(pieces) == 1:
            yield passage
        else:
            for number, piece in enumerate(pieces):
                yield Document(f"{passage.id}#{number}", passage.title, piece)


def _pieces(text: str, words: int) -> list[str]:
    """Slices of the text, each of whole sentences where one is not too long itself."""
    slices: list[tuple[int, int]] = []
    count = 0
    for sentence in _spans(_SENTENCE, text):
        inside = [
            (sentence[0] + start, sentence[0] + end)
            for start, end in _spans(_CHUNK_WORD, text[slice(*sentence)])
        ]
        if slices and count + len(inside) <= words:
            slices[-1] = (slices[-1][0], inside[-1][1])
            count += len(inside)
            continue
        # A sentence that is too long is cut between words.
        for start in range(0, len(inside), words):
            part = inside[start : start + words]
            slices.append((part[0][0], part[-1][1]))
            count = len(part)
    return [text] if len(slices) < 2 else [text[start:end] for start, end in slices]


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


def _on_hub(source: Source) -> bool:
    return str(source).startswith(HUB)


def _files(source: Path) -> list[Path]:
    files = [source] if source.is_file() else []
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.name.endswith(FORMATS))
        beir = [file for file in files if file.name in BEIR_FILES]
        files = beir or files
    if not files or not files[0].name.endswith(FORMATS):
        kind = "no such file" if not source.exists() else "not a corpus"
        raise CorpusError(f"corpus {source}: {kind}; {EXPECTED}")
    return files


def _records(source: Source) -> Records:
    if _on_hub(source):
        for row, record in enumerate(_dataset(source)):
            yield f"{source} row {row}", record
        return
    for file in _files(Path(source)):
        if file.suffix == ".parquet":
            yield from _rows(file, _parquet(file))
        elif file.suffix == ".arrow":
            yield from _rows(file, _arrow(file))
        elif file.name.endswith(TSV):
            yield from _lines(file)
        else:
            yield from read_jsonl(file, CorpusError)


def _rows(file: Path, batches: Iterator[Any]) -> Records:
    row = 0
    try:
        for batch in batches:
            for record in batch.to_pylist():
                yield f"{file} row {row}", record
                row += 1
    except (OSError, _pyarrow("lib").ArrowInvalid) as error:
        reason = str(error).strip().splitlines()[0]
        raise CorpusError(
            f"corpus {file}: damaged after row {row} ({reason}); fetch it again"
        ) from None


def _lines(file: Path) -> Records:
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        try:
            for record in rows:
                yield f"{file}, line {rows.line_num}", record
        except (csv.Error, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
            raise CorpusError(
                f"{file}, after line {rows.line_num}: damaged ({error}); fetch the file again"
            ) from None


def _parquet(file: Path) -> Iterator[Any]:
    yield from _pyarrow("parquet").ParquetFile(file).iter_batches(batch_size=_BATCH)


def _arrow(file: Path) -> Iterator[Any]:
    """Of the IPC file format, or of the stream format, which `datasets` writes."""
    pyarrow, ipc = _pyarrow("lib"), _pyarrow("ipc")
    with pyarrow.memory_map(str(file)) as mapped:
        try:
            reader = ipc.open_file(mapped)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            yield from ipc.open_stream(mapped)


def _pyarrow(module: str) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingPackageError("pyarrow", "a corpus in Parquet or Arrow")
    return importlib.import_module(f"pyarrow.{module}")


def _dataset(source: Source) -> Any:
    name, _, split = str(source).removeprefix(HUB).partition(":")
    owner, _, rest = name.partition("/")
    repository, _, config = rest.partition("/")
    datasets = importlib.import_module("datasets")
    try:
        return datasets.load_dataset(
            f"{owner}/{repository}" if repository else owner, config or None, split=split or "train"
        )
    except Exception as error:
        # Whatever its many loaders raise, the user's question is the same.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CorpusError(f"corpus {source} does not load ({reason}); {EXPECTED}") from error


def _document(record: Any, where: str) -> Document:
    if not isinstance(record, dict):
        raise CorpusError(f'{where}: expected an object with "id", "title" and "text"')
    fields = cast(dict[str, Any], record)
    if "id" not in fields and "_id" in fields:
        fields = {**fields, "id": fields["_id"]}
    if "text" not in fields and isinstance(fields.get("contents"), str):
        title, newline, text = fields["contents"].partition("\n")
        fields |= {"title": _unquoted(title.strip()), "text": text} if newline else {"text": title}
    return Document(
        _text_field(fields, "id", where),
        _title(fields.get("title"), where),
        _text_field(fields, "text", where),
    )


def _title(value: Any, where: str) -> str:
    """A table's empty cell is a title that is not there, and a film may be called 1917."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise CorpusError(f'{where}: "title" is {value!r:.60}: expected a string')
    return str(value).strip()


def _unquoted(title: str) -> str:
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return title[1:-1] if quoted else title


def _text_field(fields: dict[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if name == "id" and type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f'{where}: "{name}" is missing or not a non-empty string')
    return value
