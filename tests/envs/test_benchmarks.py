"""Public benchmarks as they are distributed: every form is read, and what is missing is named."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import pytest

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError, TaskError
from ovd_envs.registry import make_scenario
from ovd_envs.scenarios import MATH as MATH_ENV
from ovd_envs.scenarios import WEBQA
from ovd_envs.tasks.benchmarks import (
    BENCHMARKS,
    FROZEN,
    benchmark,
    fingerprint,
    given_tasks,
    is_whole,
    load_benchmark,
)
from ovd_envs.tasks.files import load_tasks
from retrieval_index import build_index
from retrieval_index.documents import Document

DATA = Path(__file__).parents[3] / "shared" / "data"

HOTPOT = {
    "_id": "5a8b",
    "question": "Who?",
    "answer": "Ada",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Ada", 0], ["Byron", 1], ["Ada", 2]],
    "context": [["Ada", ["x", "y"]]],
}
MUSIQUE = {
    "id": "3hop1__12_34_56",
    "question": "Who?",
    "answer": "Ada",
    "answer_aliases": ["A. Byron", "Ada"],
    "paragraphs": [
        {"idx": 0, "title": "Ada", "paragraph_text": "x", "is_supporting": True},
        {"idx": 1, "title": "Bob", "paragraph_text": "y", "is_supporting": False},
    ],
    "answerable": True,
}
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": "x",
                    "qas": [
                        {
                            "id": "56be",
                            "question": "Who?",
                            "answers": [
                                {"text": "Ada", "answer_start": 0},
                                {"text": "Ada Byron", "answer_start": 0},
                            ],
                        }
                    ],
                }
            ],
        }
    ],
}
TRIVIA = {
    "Data": [
        {
            "QuestionId": "tc_1",
            "Question": "Who?",
            "Answer": {"Value": "Ada", "Aliases": ["A. Byron"]},
        }
    ]
}
GSM8K = {"question": "How many?", "answer": "First <<1+1=2>>2.\n#### 1,234"}
MATH = {
    "problem": "What is it?",
    "level": "Level 3",
    "type": "Algebra",
    "solution": r"So \boxed{7}, no: \boxed{\frac{1}{2}}.",
}
OLYMPIAD = {
    "id": 1606,
    "question": "How many?",
    "final_answer": ["$2$", "3"],
    "subfield": "Algebra",
}
LINES = {
    "hotpotqa": (HOTPOT, ("5a8b", ("Ada",), 0, ("Ada", "Byron"))),
    "hub hotpotqa": (
        {
            "id": "x",
            "question": "?",
            "answer": "yes",
            "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 1]},
        },
        ("x", ("yes",), 0, ("A", "B")),
    ),
    "musique": (MUSIQUE, ("3hop1__12_34_56", ("Ada", "A. Byron"), 3, ("Ada",))),
    "nq_open": (
        {"question": "who", "answer": ["Ada", "A. Byron"]},
        ("tasks-0", ("Ada", "A. Byron"), 0, ()),
    ),
    "flashrag": (
        {"id": "test_0", "question": "who", "golden_answers": ["Ada"], "metadata": {}},
        ("test_0", ("Ada",), 0, ()),
    ),
    "hub squad": (
        {"id": "a", "question": "who", "answers": {"text": ["Ada", "Ada"], "answer_start": [0, 9]}},
        ("a", ("Ada",), 0, ()),
    ),
    "gsm8k": (GSM8K, ("tasks-0", ("1234",), 0, ())),
    "math": (MATH, ("tasks-0", (r"\frac{1}{2}",), 3, ())),
    "math500": (
        {"problem": "?", "solution": "x", "answer": "5", "level": 2, "unique_id": "test/a/1.json"},
        ("test/a/1.json", ("5",), 2, ()),
    ),
    "aime25": ({"problem_idx": 3, "problem": "?", "answer": 70}, ("3", ("70",), 0, ())),
    "amc": ({"id": 0, "problem": "?", "answer": 27.0}, ("0", ("27",), 0, ())),
    "olympiadbench": (OLYMPIAD, ("1606", ("$2$", "3"), 0, ())),
    "bamboogle": ({"Question": "Who?", "Answer": "Ada"}, ("tasks-0", ("Ada",), 0, ())),
}


def facts(task):
    return task.id, task.answers, task.hops, task.supporting


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json"])
def test_rows_as_they_are_distributed(tmp_path: Path, name: str, ending: str) -> None:
    row, expected = LINES[name]
    path = tmp_path / f"tasks.{ending}"
    text = json.dumps([row]) if ending == "json" else json.dumps(row) + "\n"
    data = ("\ufeff" + text).encode()
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    [task] = load_tasks(path)
    assert facts(task) == expected
    assert task.prompt


def test_documents_of_articles_and_lists_of_data(tmp_path: Path) -> None:
    path = tmp_path / "dev-v1.1.json"
    path.write_text(json.dumps(SQUAD))
    assert [facts(task)[:2] for task in load_tasks(path)] == [("56be", ("Ada", "Ada Byron"))]
    path = tmp_path / "wikipedia-dev.json"
    path.write_text(json.dumps(TRIVIA))
    assert [facts(task)[:2] for task in load_tasks(path)] == [("tc_1", ("Ada", "A. Byron"))]


def test_separated_values(tmp_path: Path) -> None:
    popqa = tmp_path / "popQA.tsv"
    popqa.write_text('id\tquestion\tpossible_answers\n7\tWhat?\t"[""a"", ""b""]"\n')
    assert [facts(task)[:2] for task in load_tasks(popqa)] == [("7", ("a", "b"))]
    dpr = tmp_path / "nq-test.csv.tsv"
    dpr.write_text("who wrote it\t['Ada', \"A. Byron\"]\nwhen\t['1843']\n")
    assert [task.answers for task in load_tasks(dpr)] == [("Ada", "A. Byron"), ("1843",)]
    simple = tmp_path / "simple_qa_test_set.csv"
    simple.write_text('metadata,problem,answer\n"{\'topic\': 1}","Who, then?",Ada\n')
    [task] = load_tasks(simple)
    assert (task.prompt, task.answers) == ("Who, then?", ("Ada",))


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason='pip install -e ".[index]"')
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"id": "a", "question": "who", "golden_answers": ["Ada", "B"]}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    assert [facts(task)[:2] for task in load_tasks(tmp_path / "train.parquet")] == [
        ("a", ("Ada", "B"))
    ]
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(TaskError, match="no Parquet file"):
        load_tasks(tmp_path / "torn.parquet")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", r"tasks are read from \.jsonl"),
        ("a.json", "{", "broken JSON"),
        ("a.json", '{"data": [{"paragraphs": [{}]}]}', "no list of questions"),
        ("a.jsonl", '{"q": "x", "a": "y"}', r"no field for a question.*'question'.*found 'q', 'a'"),
        (
            "a.jsonl",
            '{"question": "x", "gold": "y"}',
            r"no field for answers.*found 'question'",
        ),
        ("a.jsonl", '{"question": "x", "answer": ""}', "expected a text, or a list"),
        ("a.tsv", "one\ttwo\n1\t2\n", "no field for a question"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=message):
        load_tasks(tmp_path / name)


def test_a_benchmark_is_found_in_the_users_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OVD_DATA", str(tmp_path))
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "hotpot_dev_distractor_v1.json").write_text(json.dumps([HOTPOT]))
    assert [task.id for task in load_benchmark("hotpotqa")] == ["5a8b"]
    assert [task.id for task in given_tasks("hotpotqa")] == ["5a8b"]
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps(GSM8K))
    env = gymnasium.make("ovd_envs:ovd/Math-v0", tasks="gsm8k")
    text, _ = env.reset(seed=0)
    assert "How many?" in text
    with pytest.raises(OptionError, match="need search="):
        make_scenario("ovd/WebQA-v0", tasks="hotpotqa")


def test_without_files_one_sentence_says_which_to_put_where(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OVD_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TaskError, match=r"OVD_DATA to a folder with musique_ans_v1\.0_dev"):
        load_benchmark("musique")
    with pytest.raises(
        TaskError, match="benchmark 'nqq' is not known: expected one of nq, triviaqa"
    ):
        benchmark("nqq")


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here")
@pytest.mark.parametrize("name", sorted({*BENCHMARKS} - {"aime25", "musique"}))
def test_benchmarks_of_real_files_load(name: str, monkeypatch) -> None:
    monkeypatch.setenv("OVD_DATA", str(DATA))
    tasks = load_benchmark(name)
    assert 25 <= len(tasks) <= BENCHMARKS[name].size
    assert len(fingerprint(tasks)) == 16
    assert all(task.answers for task in tasks)


def test_generated_questions_over_other_passages_are_refused(tmp_path):
    index = build_index([Document("p", "", "some passage")], tmp_path / "index")
    with pytest.raises(OptionError, match=r"an invented world; give tasks=<file or benchmark> too"):
        make_scenario(WEBQA, search=index, count=3)
    assert make_scenario(WEBQA, search=index, tasks=[Task("a", "?", ("b",))])


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_benchmark_is_the_same_everywhere(name):
    env_id = WEBQA if FROZEN[name].kind == "questions" else MATH_ENV
    _, tasks = make_scenario(env_id, tasks=name, count=7)
    assert fingerprint(tasks) == FROZEN[name].fingerprint
    assert len(tasks) == FROZEN[name].options["count"]
    other = MATH_ENV if env_id == WEBQA else WEBQA
    with pytest.raises(OptionError, match="choose their environment"):
        make_scenario(other, tasks=name)


def test_a_frozen_benchmark_that_has_changed_is_refused(monkeypatch):
    name = "ovd/arithmetic-v1"
    monkeypatch.setitem(FROZEN, name, replace(FROZEN[name], fingerprint="other"))
    with pytest.raises(TaskError, match=r"gives other tasks here than it should"):
        make_scenario(MATH_ENV, tasks=name)


def test_a_part_of_a_set_is_told_from_the_whole():
    whole = [Task(str(n), f"question {n}?", ("a",)) for n in range(BENCHMARKS["bamboogle"].size)]
    assert is_whole("bamboogle", whole) is False  # as many, but others
    assert is_whole("bamboogle", whole[:9]) is False
    assert is_whole("musique", whole) is False  # whose fingerprint is not known
    many = [Task(str(n), f"{n}?", ("a",)) for n in range(BENCHMARKS["musique"].size)]
    assert is_whole("musique", many) is None
    assert is_whole("ovd/fiction-v1", []) is True


@pytest.mark.skipif(not DATA.exists(), reason=f"no public data at {DATA}")
@pytest.mark.parametrize("name", ["bamboogle", "frames", "math500", "aime24"])
def test_the_whole_sets_are_known(name, monkeypatch):
    monkeypatch.setenv("OVD_DATA", str(DATA))
    tasks = load_benchmark(name)
    assert is_whole(name, tasks) is True
    assert is_whole(name, tasks[::-1]) is True
    assert is_whole(name, tasks[1:]) is False
