"""Does a simulated search engine give answers away? `ovd check-search` for several, with a record.

    .venv-vllm/bin/ovd serve-model --model qwen2.5-coder-0.5b --role teacher --port 8002
    python benchmarks/leakage.py --writer teacher@http://127.0.0.1:8002/v1 --name qwen2.5-coder-0.5b

Asked are an index, the rules, and a language model that writes freely (told what the query asks for
where the task has hops, else the answer) or rewrites the passages of the index (grounded).
"helped": the query of the first hop brings what it asks for. The others bring the final answer of a
question of several hops, and should not: "clean", the query of the first hop; "empty", one without
content; "injected", one that gives orders.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, begun, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.calibration.leakage import Leakage, leakage
from ovd_envs.episode import Episode, Task
from ovd_envs.search import make_search
from ovd_envs.search.base import SearchEngine, SearchRequest
from ovd_envs.search.simulated.prompts import VERSION
from ovd_envs.tasks.fiction import World
from retrieval_index import Document, build_index

QUERIES = tuple(each.name for each in fields(Leakage))
WITHOUT_HOPS = "free, no hops"


@dataclass(frozen=True)
class Options:
    """Measure what search engines give away."""

    writer: str = ""
    """MODEL@http://HOST:PORT/v1; empty: the rules and the index alone."""
    name: str = ""
    """Of the model, in the record."""
    forms: tuple[str, ...] = ("free", WITHOUT_HOPS, "grounded")
    """How the model writes."""
    passages: int = 2000
    world_seed: int = 0
    tasks: int = 60
    top_k: int = 3
    seconds: float = 600.0
    """Time limit of a query's passages."""
    out: Path = RESULTS / "leakage.json"


def engines(options: Options, index: Path) -> dict[str, SearchEngine]:
    found = {"index": make_search(str(index)), "rules": make_search("simulated:oracle")}
    limits = {"try_seconds": options.seconds, "total_seconds": options.seconds}
    for form in options.forms if options.writer else ():
        more = {"grounded": str(index)} if form == "grounded" else {}
        given = {"name": "simulated", "writer": options.writer, **limits, **more}
        engine = make_search(given)
        found[f"{options.name}, {form}"] = WithoutHops(engine) if form == WITHOUT_HOPS else engine
    return found


@dataclass(frozen=True)
class WithoutHops:
    """An engine that is shown the tasks as those of most benchmarks are: without their hops."""

    engine: SearchEngine

    def search(
        self, requests: Sequence[SearchRequest], k: int
    ) -> Sequence[Sequence[Document] | None]:
        episodes = [request.episode for request in requests]
        bare = [Episode(replace(each.task, metadata={}), each.prompt) for each in episodes]
        return self.engine.search(
            [SearchRequest(each.query, episode) for each, episode in zip(requests, bare)], k
        )


def main(options: Options) -> None:
    record = begun(options.out)
    world = World(options.passages, options.world_seed)
    tasks = world.tasks("train", count=options.tasks, hops=(1, 2, 3))
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        build_index(list(world.passages), index, "hashing", progress=False)
        for name, engine in engines(options, index).items():
            record["results"][name] = measured(engine, tasks, options)
            write_record(options.out, record)
    show(record["results"])


def measured(engine: SearchEngine, tasks: Sequence[Task], options: Options) -> dict[str, Any]:
    return {
        "shares": asdict(leakage(engine, tasks, options.top_k)),
        "prompts": VERSION,
        "world_seed": options.world_seed,
        "top_k": options.top_k,
        **surroundings([]),
    }


def show(results: dict[str, Any]) -> None:
    table = Table("engine", *QUERIES)
    for name, record in results.items():
        shares = [record["shares"][each] for each in QUERIES]
        table.add_row(name, *(f"{each['count']} of {each['total']}" for each in shares))
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
