"""Tasks from JSON Lines, plain or gzip.

Questions: `{"id", "question", "answers": [str, ...], "supporting"?: [passage id, ...], "hops"?}`.
Problems: `{"id", "problem", "answer": str, "solution"?, "level"?, "subject"?}`; a numeric level
becomes `Task.hops`. All other keys go to `Task.metadata`, where teachers can read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError, TaskError
from retrieval_index.jsonl import read_jsonl

_QUESTION = '"id", "question" and "answers"'
_PROBLEM = '"id", "problem" and "answer"'


def given_tasks(tasks: object) -> Sequence[Task]:
    """Tasks as an environment's option holds them: a file's path, or a list of Tasks.

    Raises TaskError for a bad file, OptionError for anything else.
    """
    if isinstance(tasks, str | Path):
        return load_tasks(tasks)
    items = cast("Sequence[Any]", tasks) if isinstance(tasks, Sequence) else ()
    if not items or not isinstance(items[0], Task):
        raise OptionError(f"tasks={tasks!r:.100}: expected a JSON Lines file or a list of Tasks")
    return cast("Sequence[Task]", items)


def load_tasks(path: str | Path) -> list[Task]:
    """All tasks of a .jsonl or .jsonl.gz file. A file that has not changed is parsed once.

    Raises TaskError for a missing or empty file, and naming the line that is broken, lacks a
    field or repeats an id.
    """
    path = Path(path)
    if not path.is_file():
        raise TaskError(f"no tasks at {path}: expected a .jsonl or .jsonl.gz file")
    found = path.stat()
    return list(_parsed(path, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=16)
def _parsed(path: Path, modified: int, size: int) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for where, row in read_jsonl(path, TaskError):
        task = _task(_object(row, where), where)
        if task.id in tasks:
            raise TaskError(f"{where}: the id {task.id!r} occurs twice; ids must be unique")
        tasks[task.id] = task
    if not tasks:
        raise TaskError(f"{path} holds no tasks: expected one JSON object a line")
    return tuple(tasks.values())


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected an object with {_QUESTION}")
    return cast("dict[str, Any]", row)


def _task(row: Mapping[str, Any], where: str) -> Task:
    if "problem" in row:
        return Task(
            id=_text(row, "id", where),
            prompt=_text(row, "problem", where),
            answers=(_text(row, "answer", where),),
            hops=_count(row, "level"),
            metadata={k: v for k, v in row.items() if k not in ("id", "problem", "answer")},
        )
    question = ("id", "question", "answers", "supporting", "hops")
    return Task(
        id=_text(row, "id", where),
        prompt=_text(row, "question", where),
        answers=_texts(row, "answers", where),
        hops=_count(row, "hops"),
        supporting=_texts(row, "supporting", where) if row.get("supporting") else (),
        metadata={k: v for k, v in row.items() if k not in question},
    )


def _count(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key, 0)
    return value if type(value) is int else 0


def _field(row: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in row:
        found = ", ".join(map(repr, row)) or "none"
        raise TaskError(
            f"{where}: no field {key!r}: expected {_QUESTION}, or {_PROBLEM}; found {found}"
        )
    return row[key]


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = _field(row, key, where)
    text = _as_text(value)
    if text is None:
        raise TaskError(f"{where}: {key}={value!r:.60}: expected a non-empty text")
    return text


def _texts(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = _field(row, key, where)
    values = cast("list[Any]", value) if isinstance(value, list) else []
    texts = [text for each in values if (text := _as_text(each)) is not None]
    if not texts or len(texts) < len(values):
        expected = "expected a list of texts, at least one, none of them empty"
        raise TaskError(f"{where}: {key}={value!r:.60}: {expected}")
    return tuple(texts)


def _as_text(value: Any) -> str | None:
    """A text as it is, and a number as its digits; None for anything else, or where it is empty."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None
