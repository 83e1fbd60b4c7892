"""Tasks from files, as people have them and as data sets are distributed.

Our own form is JSON Lines, plain or gzip:

Questions: `{"id", "question", "answers": [str, ...], "supporting"?: [passage id, ...], "hops"?}`.
Problems: `{"id", "problem", "answer": str, "solution"?, "level"?, "subject"?}`; a numeric level
becomes `Task.hops`. All other keys go to `Task.metadata`, where teachers can read them.

Also read: JSON documents (SQuAD, HotpotQA, 2Wiki, TriviaQA), tab- and comma-separated values
(PopQA, FRAMES, SimpleQA), DPR's question-tab-answers, and Parquet; `rows.py` has the keys.
"""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import io
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ovd_envs.episode import Task
from ovd_envs.errors import TaskError
from ovd_envs.tasks.rows import task_of, unfolded
from retrieval_index.jsonl import read_jsonl

FORMS = (".jsonl", ".jsonl.gz", ".json", ".tsv", ".csv", ".parquet")
_BOM = "\ufeff"


def load_tasks(path: str | Path) -> list[Task]:
    """All tasks of a file. A file that has not changed is parsed once.

    Raises TaskError for a missing or empty file or one of another form, and naming the line that is
    broken, lacks a field or repeats an id.
    """
    path = Path(path)
    if not path.is_file():
        raise TaskError(f"no tasks at {path}: expected a file of the form {', '.join(FORMS)}")
    if not path.name.endswith(FORMS):
        raise TaskError(f"{path}: tasks are read from {', '.join(FORMS)}; expected such a name")
    found = path.stat()
    return list(_parsed(path, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=16)
def _parsed(path: Path, modified: int, size: int) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    stem = path.name.partition(".")[0]
    for number, (where, row) in enumerate(_rows(path)):
        task = task_of(row, where, f"{stem}-{number}")
        if task.id in tasks:
            raise TaskError(f"{where}: the id {task.id!r} occurs twice; ids must be unique")
        tasks[task.id] = task
    if not tasks:
        raise TaskError(f"{path} holds no tasks: expected one row each")
    return tuple(tasks.values())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row, with where it stands."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from read_jsonl(path, TaskError)
        return
    rows = {".json": _json_rows, ".parquet": _parquet_rows}.get(path.suffix, _separated_rows)
    try:
        for number, row in enumerate(rows(path), start=1):
            yield f"{path}, row {number}", row
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from None


def _json_rows(path: Path) -> Iterator[Any]:
    try:
        content = json.loads(path.read_text("utf-8").removeprefix(_BOM))
    except (json.JSONDecodeError, RecursionError) as error:
        raise TaskError(f"{path}: broken JSON: {error}") from None
    try:
        yield from unfolded(content)
    except (KeyError, TypeError) as error:
        raise TaskError(f"{path}: no list of questions in it ({error})") from None


def _separated_rows(path: Path) -> Iterator[Any]:
    """With a header; or, without one, DPR's question and Python list of answers."""
    text = path.read_text("utf-8").removeprefix(_BOM)
    tabs = path.suffix == ".tsv"
    first = text.partition("\n")[0].rstrip("\r").split("\t")
    if tabs and len(first) == 2 and first[1].startswith("["):
        for line in text.splitlines():
            question, _, answers = line.partition("\t")
            yield {"question": question, "answers": _python_list(answers)}
        return
    # A limit of 128 KB a field is csv's own; aliases may be longer.
    csv.field_size_limit(2**24)
    yield from csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",")


def _python_list(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parquet_rows(path: Path) -> Iterator[Any]:
    if importlib.util.find_spec("pyarrow") is None:
        raise TaskError(f'{path}: reading Parquet needs pyarrow: pip install "ovd[index]"')
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        yield from parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: no Parquet file ({error})") from None
