"""Rows of data sets as they are distributed, and the tasks they are.

Keys differ from set to set; which ones mean what stands in the tables below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from ovd_envs.episode import Task
from ovd_envs.errors import TaskError
from ovd_envs.grading.mathematics import last_boxed

Row = Mapping[str, Any]

_IDS = ("id", "_id", "ID", "qid", "question_id", "QuestionId", "unique_id", "problem_idx")
_QUESTIONS = ("question", "Question", "query", "Prompt", "prompt")
_PROBLEMS = ("problem", "Problem")
_ANSWERS = (
    *("answers", "golden_answers", "possible_answers", "final_answer"),
    *("answer", "Answer", "target"),
)
_ALIASES = ("answer_aliases", "aliases", "Aliases", "def_correct_predictions")
_SOLUTIONS = ("solution", "Solution")
_HOPS = re.compile(r"(\d)hop")
_LEVEL = re.compile(r"(?:Level )?(\d+)")


def unfolded(content: Any) -> Iterator[Any]:
    """The rows of a JSON document: a list, or SQuAD's and TriviaQA's `{"data": [...]}`, whose
    articles hold paragraphs that hold questions."""
    data = content
    if isinstance(content, dict):
        named = cast("dict[str, Any]", content)
        data = next((named[key] for key in ("data", "Data", "rows") if key in named), [named])
    for each in cast("list[Any]", data) if isinstance(data, list) else [data]:
        if isinstance(each, dict) and "paragraphs" in each and "question" not in each:
            for paragraph in cast("dict[str, Any]", each)["paragraphs"]:
                yield from paragraph["qas"]
        else:
            yield each


def task_of(row: Any, where: str, name: str) -> Task:
    """The task that a row is; `name` is its id where it has none. Raises TaskError naming the keys
    found and those wanted."""
    if not isinstance(row, dict):
        raise TaskError(f"{where}: expected an object with a question and its answers")
    fields = cast("dict[str, Any]", row)
    problem = _first(fields, _PROBLEMS)
    prompt = _text(fields, problem or _first(fields, _QUESTIONS), where, "a question or a problem")
    answers = _answers(fields, where)
    used = {problem, *_IDS, *_QUESTIONS, *_ANSWERS, *_ALIASES, "supporting", "hops"}
    if problem is None:
        used |= {"context", "paragraphs"}  # passages, which are to be searched for
    return Task(
        id=_id(fields, where) or name,
        prompt=prompt,
        answers=answers,
        hops=_hops(fields),
        supporting=_supporting(fields, where),
        metadata={key: value for key, value in fields.items() if key not in used},
    )


def _first(row: Row, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in row), None)


def _text(row: Row, key: str | None, where: str, wanted: str) -> str:
    if key is None:
        found = ", ".join(map(repr, row)) or "none"
        names = ", ".join(map(repr, (*_QUESTIONS, *_PROBLEMS)))
        raise TaskError(f"{where}: no field for {wanted}: expected one of {names}; found {found}")
    text = _as_text(row[key])
    if text is None:
        raise TaskError(f"{where}: {key}={row[key]!r:.60}: expected a non-empty text")
    return text


def _id(row: Row, where: str) -> str | None:
    key = _first(row, _IDS)
    return None if key is None else _text(row, key, where, "an id")


def _answers(row: Row, where: str) -> tuple[str, ...]:
    """Every accepted answer, each once."""
    key = _first(row, _ANSWERS)
    if key is None:
        solution = _first(row, _SOLUTIONS)
        boxed = last_boxed(str(row[solution])) if solution else ""
        if boxed:
            return (boxed,)
        found, names = ", ".join(map(repr, row)), ", ".join(map(repr, _ANSWERS))
        raise TaskError(f"{where}: no field for answers: expected one of {names}; found {found}")
    values = _listed(row[key])
    aliases = _first(row, _ALIASES)
    values += _listed(row[aliases]) if aliases else []
    texts = [_after_hashes(text) for each in values if (text := _as_text(each)) is not None]
    if not texts or len(texts) < len(values):
        expected = "expected a text, or a list of them, at least one and none empty"
        raise TaskError(f"{where}: {key}={row[key]!r:.60}: {expected}")
    return tuple(dict.fromkeys(texts))


def _listed(value: Any) -> list[Any]:
    """Answers as a list: of a text, a list, a JSON list in a text (PopQA), SQuAD's texts with their
    places, TriviaQA's value with its aliases."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        if "text" in named:
            return _listed(named["text"])
        keys = [key for key in ("value", "Value", "aliases", "Aliases") if key in named]
        return [each for key in keys for each in _listed(named[key])]
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [
            each for item in items for each in (_listed(item) if isinstance(item, dict) else [item])
        ]
    return [value]


def _after_hashes(text: str) -> str:
    """GSM8K's answer stands after its solution."""
    return text.rpartition("####")[2].strip().replace(",", "") if "\n####" in text else text


def _as_text(value: Any) -> str | None:
    """A text as it is, and a number as its digits; None for anything else, or where it is empty."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _hops(row: Row) -> int:
    for key in ("hops", "level"):
        value = row.get(key)
        if type(value) is int:
            return value
        if isinstance(value, str) and (match := _LEVEL.fullmatch(value)):
            return int(match[1])
    if match := _HOPS.match(str(row.get("id", ""))):  # MuSiQue
        return int(match[1])
    return 0


def _supporting(row: Row, where: str) -> tuple[str, ...]:
    """Ids of the gold passages; their titles where a set names these (HotpotQA, 2Wiki, MuSiQue)."""
    given: Any = row.get("supporting")
    if given:
        texts = (
            [_as_text(each) for each in cast("list[Any]", given)] if isinstance(given, list) else []
        )
        if not texts or None in texts:
            raise TaskError(f"{where}: supporting={given!r:.60}: expected a list of passage ids")
        return tuple(text for text in texts if text is not None)
    facts: Any = row.get("supporting_facts")
    titles: list[Any] = []
    if isinstance(facts, dict):
        titles = cast("dict[str, list[Any]]", facts).get("title", [])
    elif isinstance(facts, list):
        titles = [each[0] for each in cast("list[Any]", facts) if isinstance(each, list) and each]
    for each in cast("list[Any]", row.get("paragraphs") or []):
        if isinstance(each, dict) and cast("Row", each).get("is_supporting"):
            titles.append(cast("Row", each)["title"])
    return tuple(dict.fromkeys(str(title) for title in titles))
