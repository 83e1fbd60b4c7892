"""The server as its clients see it."""

import asyncio
import importlib
import importlib.util
import json
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from types import ModuleType

import gymnasium
import httpx
import msgpack
import pytest
from running import connected, ready, served

import ovd_envs  # noqa: F401 - registers the ids
from ovd_envs.episode import Task
from retrieval_index import build_index
from retrieval_index.client import RetrievalClient, ServerError
from retrieval_index.documents import Document
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import commit, live_generation
from retrieval_index.serving.app import ServerOptions, make_app

PASSAGES = [Document(f"p{n}", f"Town {n}", f"Town {n} lies on river r{n % 7}.") for n in range(60)]
OTHERS = [Document(f"n{n}", f"Town {n}", f"Town {n} was moved.") for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "index"
    build_index(PASSAGES, path)
    return path


@pytest.fixture(scope="module")
def index(folder):
    return PassageIndex.open(folder)


@pytest.fixture(scope="module")
def client(folder):
    with connected(make_app(folder)) as client:
        yield ready(client)


def documents(hits):
    return [(hit["document"]["id"], hit["score"]) for hit in hits]


def expected(index, query, k):
    return [(found.id, found.score) for found in index.search([query], k)[0]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_search_r1_and_its_copies(client, index, count):
    queries = [f"town {n}" for n in range(count)]
    asked = {"queries": queries, "topk": 4, "return_scores": True}
    result = client.post("/retrieve", json=asked).json()["result"]
    assert [documents(hits) for hits in result] == [expected(index, q, 4) for q in queries]
    assert result[0][0]["document"]["contents"].startswith(result[0][0]["document"]["title"])
    # Without scores peers confuse a list of two results with a pair of results and scores.
    plain = client.post("/retrieve", json={**asked, "return_scores": False}).json()["result"]
    assert [[hit["id"] for hit in hits] for hits in plain] == [
        [found for found, _ in expected(index, q, 4)] for q in queries
    ]


def test_skyrl(client, index):
    answer = client.post("/retrieve", json={"query": "town 5", "topk": 3, "return_scores": True})
    assert [documents(hits) for hits in answer.json()["result"]] == [expected(index, "town 5", 3)]


def test_rllm(client, index):
    for name in ("top_k", "k"):
        results = client.post("/retrieve", json={"query": "town 5", name: 3}).json()["results"]
        assert [(hit["id"], hit["score"]) for hit in results] == expected(index, "town 5", 3)
        assert results[0]["content"].startswith("Town")


def test_gem_in_msgpack(client, index):
    body = msgpack.packb({"query": "town 5", "topk": 3, "return_scores": True})
    answer = client.post("/retrieve", content=body)
    assert answer.headers["content-type"] == "application/msgpack"
    assert documents(msgpack.unpackb(answer.content)["result"]) == expected(index, "town 5", 3)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_a_request_may_choose_the_mode(client, index, mode):
    found = client.post("/v1/search", json={"query": "river r3", "topk": 5, "mode": mode})
    best = [(hit.id, hit.score) for hit in index.search(["river r3"], 5, mode)[0]]
    assert documents(found.json()["result"][0]) == best


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, 'expected "queries"'),
        ({"queries": ["x"], "query": "x"}, 'expected "queries"'),
        ({"queries": "x"}, "expected a list"),
        ({"queries": ["x"] * 4096, "topk": 17}, "at most 65,536 passages a request"),
        ({"queries": [3]}, "query 0 is 3"),
        ({"query": "x" * 8001}, "has 8001 characters"),
        ({"query": "x", "topk": 0}, '"topk" is 0: expected an integer from 1 to 1000'),
        ({"query": "x", "topk": True}, '"topk" is True'),
        ({"query": "x", "k": "5"}, "\"k\" is '5'"),
        ({"query": "x", "mode": "best"}, "\"mode\" is 'best'"),
        ({"query": "x", "return_scores": 1}, '"return_scores" is 1'),
        ([], "expected an object"),
    ],
)
def test_a_bad_request_names_the_field(client, asked, message):
    answer = client.post("/retrieve", json=asked)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"\xc1", "{é".encode("latin-1")])
def test_a_body_that_cannot_be_read(client, body):
    assert client.post("/retrieve", content=body).status_code == 422


def test_health_manifest_metrics_and_page(client, index):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json()["generation"] == "gen-000001"
    manifest = client.get("/v1/manifest").json()
    assert manifest["index_fingerprint"] == index.fingerprint
    assert manifest["corpus"]["rows"] == 60
    client.post("/retrieve", json={"query": "town 9"})
    metrics = client.get("/metrics").text
    assert 'ovd_requests_total{status="200"}' in metrics
    assert "ovd_queries_total" in metrics
    assert "ovd_waiting 0.0" in metrics
    assert "<title>Passage search</title>" in client.get("/").text


def test_without_an_index_the_server_lives_and_says_so(tmp_path):
    with connected(make_app(tmp_path)) as client:
        assert client.get("/healthz").status_code == 200
        for _ in range(1000):
            answer = client.post("/retrieve", json={"query": "x"})
            if "holds no index" in answer.json()["error"]:
                break
            time.sleep(0.005)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "holds no index" in client.get("/readyz").json()["error"]


def test_an_index_without_words_refuses_their_modes(tmp_path):
    build_index(PASSAGES[:5], tmp_path / "dense", bm25=False)
    with connected(make_app(tmp_path / "dense")) as client:
        answer = ready(client).post("/retrieve", json={"query": "x", "mode": "bm25"})
        assert answer.status_code == 422
        assert "built without BM25" in answer.json()["error"]


def test_a_new_generation_is_switched_to_and_no_request_is_lost(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "served")
    build_index(OTHERS, tmp_path / "new")
    options = ServerOptions(watch_seconds=0.01)
    statuses, answers = [], []
    with connected(make_app(place, options)) as client:
        ready(client)

        def ask(first):
            for n in range(first, first + 150):
                answer = client.post("/retrieve", json={"query": f"town {n % 60}", "topk": 1})
                statuses.append(answer.status_code)
                answers.append(answer.json()["result"][0][0]["document"]["id"])

        threads = [threading.Thread(target=ask, args=(7 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        commit(live_generation(tmp_path / "new"), place)
        for thread in threads:
            thread.join()
        for _ in range(1000):
            if client.get("/readyz").json()["generation"] == "gen-000002":
                break
            time.sleep(0.01)
        last = client.post("/retrieve", json={"query": "town 3", "topk": 1}).json()
    assert set(statuses) == {200}
    assert {answer[0] for answer in answers} <= {"p", "n"}
    assert last["result"][0][0]["document"]["id"].startswith("n")


def test_a_damaged_new_generation_leaves_the_old_one_serving(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "served")
    new = build_index(OTHERS, tmp_path / "new").generation
    (new / "ids.npy").write_bytes(b"")
    with connected(make_app(place, ServerOptions(watch_seconds=0.01))) as client:
        ready(client)
        commit(new, place)
        server = client.app.state.server
        for _ in range(1000):
            if server.problem:
                break
            time.sleep(0.01)
        assert "ids.npy has 0 bytes" in server.problem
        answer = client.post("/retrieve", json={"query": "town 3", "topk": 1})
        assert answer.json()["result"][0][0]["document"]["id"].startswith("p")


def test_two_thousand_requests_from_two_hundred_clients(folder, index):
    """Nothing is lost or mixed up, in this process; benchmarks/serving.py has more."""

    async def one(client, number):
        query = f"town {number % 60}"
        answer = await client.post("/retrieve", json={"query": query, "topk": 3})
        assert answer.status_code == 200
        return documents(answer.json()["result"][0]) == wanted[query]

    async def main():
        app = make_app(folder, ServerOptions(cache_bytes=0))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://localhost"
            ) as client,
        ):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.01)
            gate = asyncio.Semaphore(200)

            async def guarded(number):
                async with gate:
                    return await one(client, number)

            return await asyncio.gather(*(guarded(number) for number in range(2000)))

    wanted = {f"town {n}": expected(index, f"town {n}", 3) for n in range(60)}
    assert all(asyncio.run(main()))


@pytest.fixture(scope="module")
def address(folder):
    """A real server on a free port."""
    with served(make_app(folder)) as port:
        yield f"http://127.0.0.1:{port}"


def test_the_client_is_the_index_at_a_distance(address, index):
    client = RetrievalClient(address)
    queries = [f"town {n}" for n in range(9)]
    assert client.search(queries, 4) == index.search(queries, 4)
    assert client.search([], 4) == []
    assert client.search(queries, 4, "bm25") == index.search(queries, 4, "bm25")
    again = pickle.loads(pickle.dumps(RetrievalClient(address, mode="dense")))
    assert again.search(queries[:2]) == index.search(queries[:2], mode="dense")
    with pytest.raises(
        ServerError, match=r"refuses the request \(HTTP 422.*expected an integer from 1"
    ):
        client.search(queries, 0)


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.01)
    with pytest.raises(ServerError, match=r"at http://127.0.0.1:9 does not answer"):
        RetrievalClient("http://127.0.0.1:9").search(["x"])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("mode", ["hybrid", "bm25", None])
def test_the_page_shows_passages_scores_and_who_found_them(address, index, tmp_path, mode):
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --dump-dom"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path}"]
    command += [
        "--virtual-time-budget=20000",
        f"{address}/?q=town+12" + f"&mode={mode}" * bool(mode),
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert f"{len(PASSAGES)} passages" in page
    first = index.search(["town 12"], 10, mode)[0][0]
    shown = page[page.index('<ol id="results">') :]
    assert first.text in re.sub("</?mark>", "", shown)
    assert "<mark>town</mark> <mark>12</mark>" in shown.lower()
    assert f"id {first.id}<" in shown
    assert f"{first.score:.4f}" in shown
    assert f"{index.mode} (default)" in page
    assert {"hybrid": "reciprocal rank fusion", "bm25": "BM25 score", "dense": "cosine"}[
        mode or index.mode
    ] in page.partition("<script>")[0]
    assert "bm25 #1" in shown
    assert "dense #" in shown


def test_the_real_client_of_skyrl_gym(address, index):
    tools = pytest.importorskip("skyrl_gym.tools.search", reason="skyrl-gym is not installed")
    group = tools.SearchToolGroup(f"{address}/retrieve", topk=2, log_requests=False)
    told = json.loads(group.search("town 12"))["result"]
    assert index.search(["town 12"], 2)[0][0].text in told


def test_the_real_client_of_gem(address, index, monkeypatch):
    found = importlib.util.find_spec("gem")
    if found is None:
        pytest.skip("gem-llm is not installed")
    # Its __init__ loads every environment it has, and what they need; the client needs none.
    package = ModuleType("gem")
    package.__path__ = list(found.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "gem", package)
    tools = importlib.import_module("gem.tools.search_tool")
    told = tools.SearchTool(search_url=f"{address}/retrieve", topk=2)._search("town 12")
    assert index.search(["town 12"], 2)[0][0].text in told


def test_the_environment_searches_a_served_index(address, index):
    task = Task("t", "On which river lies town 12?", ("r5",))
    env = gymnasium.make("ovd/WebQA-v0", tasks=[task], search=address, top_k=2)
    env.reset(seed=0)
    _, _, _, _, info = env.step("<search>town 12</search>")
    found = [document["id"] for document in json.loads(info["documents"])]
    assert found == [document.id for document in index.search(["town 12"], 2)[0]]
