"""What every search engine keeps to, ours and the example's."""

from __future__ import annotations

import pytest

from ovd_envs.episode import Episode, Task
from ovd_envs.search import SEARCH_ENGINES, make_search
from ovd_envs.search.base import SearchEngine, SearchRequest
from ovd_envs.tasks.files import load_tasks
from retrieval_index import Document, build_index
from tests.contracts.conftest import EXAMPLES

EPISODE = Episode(Task("t", "q", ("a",)), "p")
NAMES = [*SEARCH_ENGINES.names(), "own_search_engine:FreshWords"]
WRITTEN = "simulated"
NEEDS_A_SERVER = ("http", "https", "qdrant")  # tests/retrieval has these, with real servers


@pytest.fixture(params=[name for name in NAMES if name not in NEEDS_A_SERVER])
def given(request, tmp_path):
    if request.param == "index":
        build_index(str(EXAMPLES / "passages.jsonl"), tmp_path / "i", "hashing", progress=False)
        return {"name": "index", "path": str(tmp_path / "i")}
    if request.param == WRITTEN:
        return {"name": WRITTEN}
    return {"name": request.param, "path": str(EXAMPLES / "passages.jsonl")}


def asked(*queries):
    return [SearchRequest(query, EPISODE) for query in queries]


def test_it_answers_every_request_in_order_with_at_most_k_passages(given):
    engine = make_search(given)
    assert isinstance(engine, SearchEngine)
    queries = ["capital of Portugal", "Kilimanjaro", "capital of Portugal", "東京", "?"]
    found = engine.search(asked(*queries), 2)
    assert len(found) == 5
    assert all(len(documents) <= 2 for documents in found)
    assert all(isinstance(each, Document) for documents in found for each in documents)
    assert found[0] == found[2]
    if given["name"] != WRITTEN:
        assert found[1][0].id == "p9"
    assert engine.search([], 2) == []
    alone = [engine.search(asked(query), 2)[0] for query in queries]
    assert [[d.id for d in a] for a in alone] == [[d.id for d in f] for f in found]
    for documents in found:
        scores = [each.score for each in documents]
        assert scores == sorted(scores, reverse=True)


def test_it_finds_what_the_examples_questions_need(given):
    if given["name"] == WRITTEN:
        pytest.skip("it has no passages: tests/envs/test_simulated.py plays it")
    engine = make_search(given)
    tasks = load_tasks(EXAMPLES / "questions.jsonl")
    found = engine.search(asked(*(task.prompt for task in tasks)), 3)
    hits = [
        bool({each.id for each in documents} & set(task.supporting))
        for task, documents in zip(tasks, found, strict=True)
    ]
    assert sum(hits) >= 6


def test_its_record_finds_it_again(given):
    choice = SEARCH_ENGINES.choose(given)
    assert SEARCH_ENGINES.choose(choice.record()).record() == choice.record()
