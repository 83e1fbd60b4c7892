"""Measures against hand values, files there and back, and the command."""

import gzip
import json
import math
import re
import subprocess
import sys

import pytest

from retrieval_index import build_index
from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError
from retrieval_index.evaluate import (
    Query,
    latency,
    measure,
    read_qrels,
    read_queries,
    run_queries,
    write_qrels,
    write_run,
)

FOUND = {
    "q1": [Document("a", "", "Paris is a city", 9.0), Document("b", "", "a party", 9.0)],
    "q2": [Document("c", "", "nothing", 1.0)],
}


def test_measures_are_the_hand_values():
    queries = [
        Query("q1", "?", {"b": 1, "z": 1}),
        Query("q2", "?", {"c": 1}),
        Query("q3", "?", {"d": 1}),  # found nothing, and counts all the same
    ]
    found = measure(queries, FOUND, ks=(1, 2))
    assert found["recall@1"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["recall@2"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["RR@10"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    ideal = 1 + 1 / math.log2(3)
    assert found["nDCG@10"] == pytest.approx((1 / math.log2(3) / ideal + 1 + 0) / 3)
    assert "hit@1" not in found


def test_a_split_passage_is_found_by_its_first_piece():
    pieces = [Document(name, "", "text") for name in ("x#1", "y#0", "x#0", "z#0")]
    queries = [
        Query("1", "?", {"y": 1}),
        Query("2", "?", {"x": 1, "z#0": 1}),
        Query("3", "?", {"x#0": 1}),
    ]
    found = measure(queries, {query.id: pieces for query in queries}, ks=(2, 4))
    assert found["recall@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["recall@4"] == 1.0
    assert found["RR@10"] == pytest.approx((1 / 2 + 1 + 1 / 3) / 3)


def test_a_hit_is_a_passage_that_says_an_answer_as_words():
    queries = [
        Query("q1", "?", answers=("art", "PARIS.")),
        Query("q2", "?", answers=("thing",)),
    ]
    found = measure(queries, FOUND, ks=(1,))
    assert found == {"hit@1": 0.5}


def test_equal_scores_keep_the_order_of_the_engine():
    queries = [Query("q1", "?", {"a": 1})]
    assert measure(queries, FOUND)["RR@10"] == 1.0
    swapped = {"q1": FOUND["q1"][::-1]}
    assert measure(queries, swapped)["RR@10"] == 0.5


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz"])
def test_queries_are_read(tmp_path, name):
    rows = [
        {"id": "1", "question": "who?", "answers": ["x"], "supporting": ["p", "r"]},
        {"id": "2", "question": "what?", "relevant": {"p": 3}},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_queries(path) == [
        Query("1", "who?", {"p": 1, "r": 1}, ("x",)),
        Query("2", "what?", {"p": 3}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"q.jsonl, line 2: broken JSON"),
        ('{"id": "1"}', r"q.jsonl, line 2: expected \"id\" and \"question\", found 'id'"),
        ('{"id": "0", "question": "?", "answers": ["b"]}', "another query has the id '0'"),
        ('{"id": "1", "question": "?", "answers": [{}]}', "expected a list of strings"),
        ('{"id": "1", "question": "?"}', r'q.jsonl, line 2: expected "supporting"'),
        ("[]", r"q.jsonl, line 2: expected a JSON object"),
    ],
)
def test_a_bad_query_is_named(tmp_path, line, message):
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": "0", "question": "?", "answers": ["a"]}\n' + line + "\n")
    with pytest.raises(CorpusError, match=message):
        read_queries(path)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(CorpusError, match="no such file"):
        read_queries(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match="there are none in it"):
        read_queries(tmp_path / "empty.jsonl")


def test_trec_files(tmp_path):
    queries = [Query("q1", "?", {"a": 1, "b": 2}), Query("q2", "?", {"c": 0})]
    write_qrels(tmp_path / "qrels", queries)
    assert read_qrels(tmp_path / "qrels") == {"q1": {"a": 1, "b": 2}, "q2": {"c": 0}}
    (tmp_path / "qrels").write_text("q1 0 a 1\nq1 0 a\n")
    with pytest.raises(CorpusError, match=r"qrels:2: expected `query 0 passage grade`"):
        read_qrels(tmp_path / "qrels")
    write_run(tmp_path / "run", FOUND, tag="x")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q1 Q0 a 1 9.000000 x",
        "q1 Q0 b 2 9.000000 x",
        "q2 Q0 c 1 1.000000 x",
    ]


def test_queries_and_judgements_of_beir(tmp_path):
    rows = [{"_id": n, "text": f"what is {n}?", "metadata": {}} for n in range(3)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\n0\tp\t1\n\n2\tq\t2.0\n")
    judgements = read_qrels(tmp_path / "test.tsv")
    assert judgements == {"0": {"p": 1}, "2": {"q": 2}}
    found = read_queries(tmp_path / "queries.jsonl", judgements)
    assert found == [Query("0", "what is 0?", {"p": 1}), Query("2", "what is 2?", {"q": 2})]
    with pytest.raises(CorpusError, match="no query has an id of the judgements, such as"):
        read_queries(tmp_path / "queries.jsonl", {"x": {"p": 1}})
    with pytest.raises(CorpusError, match="or a file of judgements"):
        read_queries(tmp_path / "queries.jsonl")


def test_one_answer_in_place_of_a_list(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": 7, "question": "?", "golden_answers": "Lima"}')
    assert read_queries(tmp_path / "q.jsonl") == [Query("7", "?", {}, ("Lima",))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    passages = [Document(f"p{n}", f"Town {n}", f"The mayor of {n} is Ada{n}.") for n in range(40)]
    path = tmp_path_factory.mktemp("evaluated") / "index"
    build_index(passages, path)
    return path


def test_an_index_is_measured_by_its_queries(tmp_path):
    passages = [Document("a", "", "red fox"), Document("b", "", "blue sea")]
    index = build_index(passages, tmp_path / "index")
    queries = [Query("1", "fox", {"a": 1}), Query("2", "sea", {"b": 1})]
    found = run_queries(index, queries, 2)
    assert measure(queries, found)["recall@1"] == 1.0
    assert set(latency(index, queries, 2)) == {"p50 ms", "p95 ms", "p99 ms", "queries/s"}


def test_the_command_prints_every_mode_and_writes_what_it_is_told(folder, tmp_path):
    rows = [
        {"id": str(n), "question": f"Who is mayor of {n}?", "supporting": [f"p{n}"]}
        for n in range(10, 40)
    ]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "scripts/evaluate_index.py", "--index", str(folder)]
    command += ["--queries", str(questions), "--run", str(tmp_path / "run.trec")]
    command += ["--out", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert re.search(r"recall@10 +│ +[\d.]+ │ +1.000 │ +[\d.]+ ", done.stdout)  # whole figures
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures) == ["dense", "bm25", "hybrid"]
    assert figures["bm25"]["recall@1"] == 1.0
    assert len((tmp_path / "run.hybrid.trec").read_text().splitlines()) == 300
    wrong = subprocess.run([*command[:5], str(tmp_path / "none")], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no such file" in wrong.stderr
