"""Does a search engine give answers away? `ovd check-search --search simulated:oracle`.

Asks the engine about generated questions: by the query of the first hop, by queries without content
and by queries that give orders. A question of several hops cannot be answered by its first search,
so an engine that brings the final answer leaks it. A student would learn to ask for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.runs.config import BUILT_IN
from ovd_envs.calibration.leakage import Leakage, leakage
from ovd_envs.errors import OptionError
from ovd_envs.registry import DEFAULT_ENV, make_scenario
from ovd_envs.search.base import SearchEngine

ROWS = {
    "helped": "the first hop's query brings what it asks for",
    "clean": "and the final answer, which it does not ask for",
    "empty": "a query without content brings the final answer",
    "injected": "a query that gives orders brings the final answer",
    "failed": "brought nothing that can be used",
}


@dataclass(frozen=True)
class Options:
    """Measure what a search engine gives away."""

    search: str = "simulated:oracle"
    """The engine, as `ovd train --search` takes it."""
    tasks: Path | None = None
    """JSON Lines file of tasks with a chain of hops; by default generated ones."""
    count: int = 60
    """Tasks that are asked about."""
    top_k: int = 3
    """Passages of a query."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    scenario, tasks = make_scenario(
        DEFAULT_ENV,
        search=None if options.search == BUILT_IN else options.search,
        tasks=options.tasks,
        count=options.count,
        hops=(1, 2, 3),
        teacher=None,
    )
    tasks = [task for task in tasks[: options.count] if task.metadata.get("chain")]
    if not tasks:
        raise OptionError(f"{options.tasks}: no task has a chain of hops to ask for")
    found = leakage(cast(SearchEngine, vars(scenario)["search"]), tasks, options.top_k)
    show(options.search, found)
    return 0


def show(engine: str, found: Leakage) -> None:
    table = Table("queries", "share", "of", title=engine)
    for name, said in ROWS.items():
        share = getattr(found, name)
        table.add_row(said, f"{share.share:.2f}", str(share.total))
    Console().print(table)
