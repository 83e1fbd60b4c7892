"""Look at a run in the browser, while it trains and afterwards: `ovd view runs/qa`.

Lists the episodes of training and of held-out play, filtered by score, exact match, hops and end;
shows one turn by turn, with passages, scores and their reasons, beside what replaced or continued
it, or before beside after; and draws the run's curves. Keys: j and k for the next and the previous
episode, / to search, Escape to the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ovd_agent.view.server import ViewServer
from ovd_agent.view.store import RunStore


@dataclass(frozen=True)
class Options:
    """Look at a run."""

    run: tyro.conf.Positional[Path]
    """Its folder."""
    host: str = "127.0.0.1"
    port: int = 8600
    """0 takes any that is free."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    server = ViewServer(RunStore(options.run), options.host, options.port)
    print(f"{options.run} at {server.url} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()
    return 0
