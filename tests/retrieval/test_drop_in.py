"""The server under a trainer of others, and under what the network may bring."""

import json
import random
import shutil
import socket
import time

import msgpack
import pytest
from running import connected, ready, served

from retrieval_index import build_index
from retrieval_index.documents import Document
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import commit
from retrieval_index.serving import limits
from retrieval_index.serving.app import ServerOptions, make_app

PASSAGES = [Document(f"p{n}", f"Town {n}", f"Town {n} lies on river r{n % 7}.") for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "index"
    build_index([*PASSAGES, Document("odd", "Odd", "a lone \ud800 surrogate")], path)
    return path


@pytest.fixture(scope="module")
def client(folder):
    with connected(make_app(folder)) as client:
        yield ready(client)


def passages_to_string(found):
    """As Search-R1's trainer reads a result (its search_r1/llm_agent/generation.py)."""
    text = ""
    for number, item in enumerate(found):
        content = item["document"]["contents"]
        title, *lines = content.split("\n")
        text += f"Doc {number + 1}(Title: {title}) {chr(10).join(lines)}\n"
    return text


def test_the_requests_of_search_r1s_trainer_over_a_batch_of_episodes(client, folder):
    """Its loop posts what every active episode searches for, each turn: texts, empty texts of an
    empty tag, and an empty list where nobody searches. Each result is taken in turn."""
    index, rng = PassageIndex.open(folder), random.Random(0)
    active = list(range(48))
    for turn in range(5):
        acts = {episode: rng.choice(["search", "empty", "answer"]) for episode in active}
        if turn == 3:
            acts = dict.fromkeys(active, "answer")
        queries = {
            episode: f"town {episode}" if act == "search" else ""
            for episode, act in acts.items()
            if act != "answer"
        }
        payload = {"queries": list(queries.values()), "topk": 3, "return_scores": True}
        results = client.post("/retrieve", json=payload).json()["result"]
        texts = [passages_to_string(result) for result in results]
        assert len(texts) == len(queries)
        for episode, text in zip(queries, texts):
            best = index.search([queries[episode]], 1)[0][0].title if queries[episode] else ""
            assert text.startswith(f"Doc 1(Title: {best}" if best else "")
            assert bool(text) == bool(best)
        active = (
            [episode for episode in active if acts[episode] != "answer"] if turn == 1 else active
        )


@pytest.mark.parametrize("query", ["", "  "])
def test_an_empty_query_finds_nothing_in_any_dialect(client, query):
    asked = {"query": query, "topk": 2, "return_scores": True}
    assert client.post("/retrieve", json=asked).json() == {"result": [[]]}
    assert client.post("/retrieve", json={"query": query, "k": 2}).json() == {"results": []}
    packed = client.post("/retrieve", content=msgpack.packb(asked))
    assert msgpack.unpackb(packed.content) == {"result": []}


def test_a_lone_surrogate_is_sent_as_a_question_mark(client):
    asked = {"query": "lone surrogate", "topk": 1, "return_scores": True}
    answer = client.post("/retrieve", content=msgpack.packb(asked))
    assert answer.status_code == 200
    [hit] = msgpack.unpackb(answer.content)["result"]
    assert hit["document"]["text"] == "a lone ? surrogate"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("[::1]:8000", True),
        ("10.0.0.7", True),
        ("search.example:8000", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_only_known_hosts_are_answered(folder, host, known):
    """A page whose name was made to point here may not read the index (DNS rebinding)."""
    with connected(make_app(folder, ServerOptions(hosts=("search.example",)))) as client:
        answer = client.get("/healthz", headers={"host": host})
    assert answer.status_code == (200 if known else 400)
    assert known or "--server.hosts NAME" in answer.json()["error"]


def test_a_body_without_end_is_refused(client, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BODY", 1 << 20)
    answer = client.post("/retrieve", content=b" " * (1 << 21))
    assert answer.status_code == 413
    assert "more than 1 MiB" in answer.json()["error"]


def test_a_body_that_drips_is_given_up(folder):
    head = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
    with (
        served(make_app(folder, ServerOptions(seconds=0.2))) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(head)
        assert b" 408 " in connection.recv(1000)


def test_pages_that_load_from_elsewhere_are_not_there(client):
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404


def damaged(name):
    def change(generation):
        (generation / name).write_bytes(b"\x93NUMPY\x01\x00")
        manifest = json.loads((generation / "manifest.json").read_text())
        for file in manifest["files"]:
            if file["path"] == name:
                file["bytes"] = (generation / name).stat().st_size
        (generation / "manifest.json").write_text(json.dumps(manifest))

    return change


def remove_corpus(generation):
    shutil.rmtree(generation / "corpus")
    manifest = json.loads((generation / "manifest.json").read_text())
    manifest["files"] = []
    (generation / "manifest.json").write_text(json.dumps(manifest))


FILES = (
    "ids.npy",
    "vectors/part-00000.f32.npy",
    "corpus/part-00000.offsets.npy",
    "corpus/part-00000.jsonl",
    "encoder/document_frequency.npy",
    "bm25/vocab.index.json",
    "bm25/params.index.json",
)
DAMAGE = {name: damaged(name) for name in FILES} | {
    "no corpus": remove_corpus,
    "a list": lambda generation: (generation / "manifest.json").write_text("[]"),
    "not text": lambda generation: (generation / "manifest.json").write_bytes(b"\xff\xfe"),
    "nothing": lambda generation: (generation / "manifest.json").write_text(""),
}


def test_whatever_is_damaged_the_next_whole_generation_is_switched_to(folder, tmp_path):
    """One server, all kinds of damage, one after the other: its watcher outlives each."""
    place = shutil.copytree(folder, tmp_path / "served")
    with connected(make_app(place, ServerOptions(watch_seconds=0.005))) as client:
        ready(client)
        server = client.app.state.server
        for number, (name, damage) in enumerate(DAMAGE.items()):
            server.problem = ""
            bad = shutil.copytree(folder / "gen-000001", tmp_path / f"bad{number}")
            damage(bad)
            commit(bad, place)
            for _ in range(2000):
                if server.problem:
                    break
                time.sleep(0.005)
            assert server.problem, name
            assert "problem" in client.get("/readyz").json(), name
            asked = {"query": "town 3", "topk": 1}
            assert client.post("/retrieve", json=asked).json()["result"][0], name
        good = commit(shutil.copytree(folder / "gen-000001", tmp_path / "good"), place)
        for _ in range(2000):
            if client.get("/readyz").json() == {"status": "ready", "generation": good.name}:
                return
            time.sleep(0.005)
    raise AssertionError(server.problem)
