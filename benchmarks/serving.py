"""A served index beside the un-batched server that peers have, under many clients.

    .venv/bin/python benchmarks/serving.py

The index is of a generated encyclopedia by the hashing encoder, or your own (`--index`). `clients`
threads keep one connection each and send one query a request, as rollouts of single trajectories
do. The other server is Search-R1's `/retrieve`: FastAPI, a synchronous handler in FastAPI's thread
pool, one `index.search` a request. First all queries differ; then each comes `group` times, as from
a GRPO group. The servers run in a process of their own. Every answer is compared with the index's.
"""

import http.client
import json
import multiprocessing
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.tasks.fiction import World
from retrieval_index import Document, PassageIndex, build_index

Kind = Literal["batched", "one by one"]


@dataclass(frozen=True)
class Options:
    """Compare servers."""

    index: Path | None = None
    passages: int = 20_000
    clients: int = 200
    requests: int = 4000
    group: int = 8
    k: int = 5
    repetitions: int = 3
    seed: int = 0
    out: Path = RESULTS / "serving.json"


def serve(kind: Kind, folder: Path, port: int) -> None:
    import uvicorn

    if kind == "batched":
        from retrieval_index.serving.app import ServerOptions, make_app

        app = make_app(folder, ServerOptions(mode="dense"))
    else:
        app = plain_app(PassageIndex.open(folder, mode="dense"))
    uvicorn.run(app, port=port, log_level="error")


def plain_app(index: PassageIndex) -> Any:
    """Search-R1's server, over this index."""
    from fastapi import Body, FastAPI

    app = FastAPI()

    @app.post("/retrieve")
    def retrieve(request: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        found = index.search(request["queries"], request["topk"])
        return {
            "result": [
                [{"document": {"id": d.id, "contents": d.contents}, "score": d.score} for d in hits]
                for hits in found
            ]
        }

    return app


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Client:
    """One connection that is kept; a thread of its own asks its share of the queries."""

    def __init__(self, port: int, queries: Sequence[str], k: int) -> None:
        self.port, self.queries, self.k = port, queries, k
        self.answers: list[list[str]] = []
        self.seconds: list[float] = []
        self.failures = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for query in self.queries:
            body = json.dumps({"queries": [query], "topk": self.k, "return_scores": True})
            began = time.perf_counter()
            try:
                connection.request("POST", "/retrieve", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                [hits] = json.loads(answer.read())["result"]
                self.answers.append([hit["document"]["id"] for hit in hits])
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                self.failures += 1
                self.answers.append([])
                connection.close()
            self.seconds.append(time.perf_counter() - began)


def load(port: int, queries: Sequence[str], options: Options) -> dict[str, Any]:
    """Send every query from the clients at once."""
    shares = [queries[n :: options.clients] for n in range(options.clients)]
    clients = [Client(port, share, options.k) for share in shares]
    threads = [threading.Thread(target=client.run) for client in clients]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    latency = np.concatenate([client.seconds for client in clients])
    found = {
        query: answer
        for client in clients
        for query, answer in zip(client.queries, client.answers, strict=True)
    }
    return {
        "queries_per_second": len(queries) / elapsed,
        "p50_ms": 1e3 * float(np.percentile(latency, 50)),
        "p99_ms": 1e3 * float(np.percentile(latency, 99)),
        "failures": sum(client.failures for client in clients),
        "found": found,
    }


def measure(
    kind: Kind, folder: Path, queries: Sequence[str], expected: dict[str, list[str]], o: Options
) -> dict[str, Any]:
    port = free_port()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(kind, folder, port), daemon=True)
    process.start()
    try:
        wait_until_ready(port)
        result = load(port, queries, o)
        wrong = sum(result["found"][query] != expected[query] for query in set(queries))
        result["wrong"] = wrong
        del result["found"]
        if kind == "batched":
            result["counts"] = counts(port)
        return result
    finally:
        process.terminate()
        process.join()


def wait_until_ready(port: int) -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            body = json.dumps({"queries": ["ready"], "topk": 1, "return_scores": True})
            connection.request("POST", "/retrieve", body, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def counts(port: int) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    wanted = ("queries", "cached", "joined", "searched", "batches")
    values = dict(line.split() for line in lines if not line.startswith("#"))
    return {name: float(values[f"ovd_{name}_total"]) for name in wanted}


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        world = World(options.passages, seed=options.seed)
        folder = options.index or Path(scratch) / "index"
        index = (
            PassageIndex.open(folder, mode="dense")
            if options.index
            else build_index(world.passages, folder, bm25=False)
        )
        rng = random.Random(options.seed)
        subjects = rng.sample(range(len(index)), min(options.requests, len(index)))
        different = [f"what is told of {index.passages[row].title}?" for row in subjects]
        repeated = different[: len(different) // options.group] * options.group
        rng.shuffle(repeated)
        found: list[list[Document]] = index.search(different, options.k, "dense")
        expected = {q: [d.id for d in hits] for q, hits in zip(different, found, strict=True)}
        loads = {"different": different, f"each {options.group} times": repeated}
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.repetitions):
            for name, queries in loads.items():
                for kind in ("batched", "one by one"):
                    one = measure(kind, folder, queries, expected, options)
                    results.setdefault(f"{name} | {kind}", []).append(one)
                    print(name, kind, f"{one['queries_per_second']:.0f} queries/s", flush=True)
    show(results)
    record: dict[str, Any] = {
        "passages": len(index),
        "clients": options.clients,
        "requests": options.requests,
        "seed": options.seed,
        "results": results,
        **surroundings(["faiss-cpu", "fastapi", "uvicorn"]),
    }
    write_record(options.out, record)


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    table = Table("queries", "server", "queries/s", "p50 ms", "p99 ms", "failed", "wrong")
    for name, runs in results.items():
        queries, kind = name.split(" | ")
        middle = [
            statistics.median(run[key] for run in runs)
            for key in ("queries_per_second", "p50_ms", "p99_ms")
        ]
        lost = [str(sum(run[key] for run in runs)) for key in ("failures", "wrong")]
        table.add_row(queries, kind, *(f"{value:,.0f}" for value in middle), *lost)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
