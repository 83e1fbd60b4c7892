"""Every benchmark whose file is at hand, played by the oracle and by students.

    python benchmarks/published.py                      # SmolLM2 as it is
    python benchmarks/published.py --students smollm2 runs/demo
    python benchmarks/published.py --show

Public sets are looked for in OVD_DATA (by default shared/data). A student plays by `ovd evaluate`;
what it scores on our own frozen benchmarks is kept by question in ovd_agent/published, so that
`ovd compare --against published` can pair it. Questions are searched for in the passages that the
table names: where these are not the set's own, few answers can be found, and the table says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, STOPPED, begun, surroundings, write_record
from rich.console import Console
from rich.table import Table

import ovd_agent
from ovd_agent.runs.evaluate import summarise
from ovd_agent.runs.published import publish
from ovd_envs.errors import TaskError
from ovd_envs.registry import choose_environment
from ovd_envs.scenarios import MATH, WEBQA
from ovd_envs.tasks.benchmarks import BENCHMARKS, DATA_VARIABLE, FROZEN, benchmark, fingerprint
from retrieval_index import build_index

DATA = Path(__file__).parents[2] / "shared" / "data"
CORPORA = {
    "squad": "squad_dev",
    "hotpotqa": "hotpotqa_100",
    "2wikimultihopqa": "2wikimultihopqa",
    "popqa": "popqa_1000",
}
"""Passages of a set."""
MATCHED = ("squad", "popqa")
"""Sets whose passages here are those of the questions that are played."""
ANY = "squad_dev"
"""What is searched for the other sets."""
OWN = "its own world"
PACKAGES = ("torch", "transformers", "math-verify", "bm25s")


@dataclass(frozen=True)
class Options:
    """Measure, or show the record."""

    students: tuple[str, ...] = ("smollm2",)
    count: int = 50
    """Tasks of each public set, the first ones; ours have 200."""
    folder: Path = Path("runs/published")
    out: Path = RESULTS / "published.json"
    show: bool = False
    """Print the record at `out`, and measure nothing."""


def main(options: Options) -> None:
    if options.show:
        show(json.loads(options.out.read_text())["results"])
        return
    os.environ.setdefault(DATA_VARIABLE, str(DATA))
    stopped = options.folder / STOPPED
    record = begun(stopped)
    results: dict[str, dict[str, Any]] = record["results"]
    for name in [*FROZEN, *BENCHMARKS]:
        row = results.setdefault(name, {})
        for player in ("oracle", *options.students):
            if player not in row and "absent" not in row:
                row |= measured(name, player, options)
                write_record(stopped, record | {"count": options.count})
    write_record(options.out, record | surroundings(PACKAGES))
    stopped.unlink()
    show(results)


def measured(name: str, player: str, options: Options) -> dict[str, Any]:
    """The player's figures, with the passages that were searched; or that there is no file."""
    passages = passages_of(name)
    search = None if passages in (None, OWN) else str(index_of(passages, options))
    try:
        found = (oracle if player == "oracle" else student)(name, player, search, options)
    except TaskError as error:
        return {"absent": str(error)}
    return {player: found, "passages": passages}


def passages_of(name: str) -> str | None:
    """The passages that are searched; None for problems."""
    if benchmark(name).kind == "problems":
        return None
    return OWN if name in FROZEN else CORPORA.get(name, ANY)


def index_of(corpus: str, options: Options) -> Path:
    folder = options.folder / "indexes" / corpus
    build_index(DATA / "corpora" / f"{corpus}.jsonl.gz", folder)
    return folder


def oracle(name: str, player: str, search: str | None, options: Options) -> dict[str, Any]:
    env = MATH if benchmark(name).kind == "problems" else WEBQA
    given: dict[str, Any] = {"name": env, "tasks": name}
    scenario, tasks = choose_environment(given | ({"search": search} if search else {})).build()
    tasks = tasks if name in FROZEN else tasks[: options.count]
    result = summarise(scenario.demonstrate(tasks, scored=False))
    return {"em": result["em"], "tasks": len(tasks), "fingerprint": fingerprint(tasks)}


def student(name: str, player: str, search: str | None, options: Options) -> dict[str, Any]:
    out = options.folder / f"{Path(player).name}-{name.replace('/', '-')}"
    count = FROZEN[name].options["count"] if name in FROZEN else options.count
    command = [sys.executable, "-m", "ovd_agent.cli.main", "evaluate", "--student", player]
    command += ["--benchmark", name, "--count", str(count), "--out", str(out)]
    command += ["--search", search] if search else []
    if passages_of(name) is None and name not in FROZEN:  # whose problems and steps are longer
        command += ["--rollout.max-length", "1400", "--rollout.max-new-tokens", "96"]
    subprocess.run(command, check=True)
    result = json.loads((out / "result.json").read_text())
    if name in FROZEN:
        folder = Path(ovd_agent.__file__).parent / "published"
        folder.mkdir(exist_ok=True)
        publish(result, f"{Path(player).name} on {name}", folder)
    kept = ("em", "em_low", "em_high", "f1", "answered")
    return {**{key: result[key] for key in kept}, "fingerprint": result["tasks_fingerprint"]}


def show(results: dict[str, dict[str, Any]]) -> None:
    known = {"passages", "absent"}
    players = list(
        dict.fromkeys(key for row in results.values() for key in row if key not in known)
    )
    table = Table("benchmark", "tasks", "passages", *(f"{name} EM" for name in players))
    for name, row in results.items():
        if "absent" in row:
            table.add_row(name, "0", "no file")
            continue
        passages = row["passages"] or "none"
        matched = row["passages"] in (None, OWN) or name in MATCHED
        passages += "" if matched else " (of other questions)"
        figures = [row.get(player) for player in players]
        cells = [
            ""
            if one is None
            else f"{one['em']:.3f}"
            + (f" ({one['em_low']:.3f} to {one['em_high']:.3f})" if "em_low" in one else "")
            for one in figures
        ]
        table.add_row(name, str(row["oracle"]["tasks"]), passages, *cells)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
