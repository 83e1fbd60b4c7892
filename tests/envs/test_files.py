"""Tasks from JSON Lines: both schemas, plain and gzip, and broken files named by line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.calibration.validate import validate_tasks
from ovd_envs.episode import Task, read_episodes
from ovd_envs.errors import TaskError
from ovd_envs.registry import make_scenario
from ovd_envs.tasks.files import load_tasks

QUESTION = {"id": "q", "question": "Où?", "answers": ["ici", "là"]}
GOOD = json.dumps(QUESTION, ensure_ascii=False).encode()


def write(folder: Path, *lines: bytes) -> Path:
    path = folder / "tasks.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\n\n"])
def test_questions(tmp_path: Path, suffix: str, newline: bytes) -> None:
    rows = [
        QUESTION,
        {**QUESTION, "id": "r", "supporting": ["p1", "p2"], "hops": 2, "links": {"a": 1}},
    ]
    data = newline.join(json.dumps(row, ensure_ascii=False).encode() for row in rows) + newline
    path = tmp_path / f"questions{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert (
        load_tasks(path)
        == load_tasks(str(path))
        == [
            Task("q", "Où?", ("ici", "là")),
            Task("r", "Où?", ("ici", "là"), 2, ("p1", "p2"), {"links": {"a": 1}}),
        ]
    )


def test_problems(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "problem": "1+1?", "answer": "2", "level": 3, "solution": "1+1=2"},
        {"id": "b", "problem": "1+2?", "answer": r"\frac{6}{2}", "level": "hard"},
    ]
    path = write(tmp_path, *(json.dumps(row).encode() for row in rows))
    assert load_tasks(path) == [
        Task("a", "1+1?", ("2",), 3, (), {"level": 3, "solution": "1+1=2"}),
        Task("b", "1+2?", (r"\frac{6}{2}",), 0, (), {"level": "hard"}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "x", ', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"[1]", "expected an object with a question"),
        (b"null", "expected an object"),
        (b'{"id": "x\xff"}', "not UTF-8"),
        (b"{}", "no field for a question or a problem: expected .* found none"),
        (b'{"id": "x"}', "no field for a question .* found 'id'"),
        (b'{"id": "x", "question": "?"}', "no field for answers: .* found 'id', 'question'"),
        (b'{"id": "x", "problem": "?"}', "no field for answers: .* found 'id', 'problem'"),
        (b'{"id": true, "question": "?", "answers": ["a"]}', "id=True: expected a non-empty text"),
        (b'{"id": "x", "question": " ", "answers": ["a"]}', "question=' ': expected"),
        (
            b'{"id": "x", "question": "?", "answers": []}',
            r"answers=\[\]: expected a text, or a list",
        ),
        (b'{"id": "x", "question": "?", "answers": [" "]}', r"answers=\[' '\]: expected a text"),
        (b'{"id": "x", "problem": "?", "answer": null}', "answer=None: expected a text"),
        (GOOD, "the id 'q' occurs twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    """Counted from 1, blank lines too; and in one sentence."""
    path = write(tmp_path, GOOD, b"", line, GOOD)
    with pytest.raises(ValueError, match=rf"tasks\.jsonl, line 3: .*{message}") as caught:
        load_tasks(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_line_far_down_is_named_exactly(tmp_path: Path) -> None:
    """Not the place that a buffer had been read to."""
    rows = [json.dumps({**QUESTION, "id": str(n)}).encode() for n in range(3000)]
    path = write(tmp_path, *rows, b'{"id": "\xe9"}', *rows)
    with pytest.raises(ValueError, match="line 3001: not UTF-8"):
        load_tasks(path)
    with pytest.raises(ValueError, match="line 1: not an episode record"):
        list(read_episodes(path))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: b"{}" + data, lambda data: data[:40] + b"\0" * 40],
)
def test_damaged_gzip_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "tasks.jsonl.gz"
    rows = b"\n".join(json.dumps({**QUESTION, "id": str(n)}).encode() for n in range(300))
    path.write_bytes(damage(gzip.compress(rows)))
    with pytest.raises(ValueError, match=r"tasks\.jsonl\.gz, after line \d+: damaged gzip"):
        load_tasks(path)


def test_no_file_and_no_tasks(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no tasks at .*missing\.jsonl: expected"):
        load_tasks(tmp_path / "missing.jsonl")
    with pytest.raises(TaskError, match=r"expected a file of the form \.jsonl"):
        load_tasks(tmp_path)
    with pytest.raises(ValueError, match=r"tasks\.jsonl holds no tasks"):
        load_tasks(write(tmp_path, b"", b"  "))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff", "'ascii' codec"),
        (b"[" * 100_000, "recursion"),
        (b'{"task": {"answers": [], "supporting": []}}', "missing"),
        (b'{"task": {"answers": []}, "turns": []}', "no field 'supporting'"),
    ],
)
def test_a_bad_episode_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, line)
    with pytest.raises(ValueError, match=rf"tasks\.jsonl, line 1: .*{message}"):
        next(read_episodes(path))


KEYS = ("id", "question", "answers", "supporting", "hops", "problem", "answer", "level", "task")
VALUES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(row=st.dictionaries(st.sampled_from(KEYS), VALUES) | VALUES)
def test_any_json_is_a_task_or_a_named_error(folder: Path, row: Any) -> None:
    path = write(folder, json.dumps(row).encode())
    try:
        [task] = load_tasks(path)
    except ValueError as error:
        message = str(error)
    else:
        assert all((task.id, task.prompt, task.answers))
        return
    assert message.startswith(f"{path}, line 1: ")


def test_tasks_that_cannot_be_won_or_lost_are_named() -> None:
    scenario, tasks = make_scenario("ovd/Math-v0", count=50)
    assert validate_tasks(scenario, tasks) == []
    scenario, tasks = make_scenario("ovd/WebQA-v0", count=50, passages=200)
    assert validate_tasks(scenario, tasks) == []
    broken = [
        Task("a", "What?", ("",)),
        Task("a", "Who?", ("x",)),
        Task("b", "Who?", ()),
    ]
    assert validate_tasks(scenario, broken) == [
        "task 'a': an empty answer is graded right",
        "task 'a': this id occurs twice",
        "task 'b': the same text as task 'a'",
        "task 'b': no answer is given",
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tasks{suffix}"
    text = b'\xef\xbb\xbf{"id": "a", "question": "q", "answers": ["x"]}\n'
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert [task.id for task in load_tasks(path)] == ["a"]


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "question": "q", "answers": ["x"]}\n')
    first = load_tasks(path)
    assert load_tasks(path)[0] is first[0]
    path.write_text('{"id": "ab", "question": "q", "answers": ["x"]}\n')
    assert load_tasks(path)[0].id == "ab"


def test_numbers_may_be_ids_and_answers(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        '{"id": 7, "question": "?", "answers": [1, "one", 2.5]}\n'
        '{"id": "b", "problem": "?", "answer": 4}\n'
    )
    first, second = load_tasks(path)
    assert (first.id, first.answers, second.answers) == ("7", ("1", "one", "2.5"), ("4",))


def test_a_missing_field_is_told_beside_those_that_are_there(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"_id": 7, "query": "?"}\n')
    with pytest.raises(TaskError, match=r"no field for answers.*found '_id', 'query'"):
        load_tasks(path)


def test_a_truth_value_is_no_number_of_hops(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "question": "?", "answers": ["x"], "hops": true}\n')
    assert load_tasks(path)[0].hops == 0
