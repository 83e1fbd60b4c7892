"""Search engines by name. A package adds its own by the entry-point group `ovd.search_engines`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovd_envs.errors import OptionError
from ovd_envs.search.base import SearchEngine
from retrieval_index.registry import Registry

SEARCH_ENGINES: Registry[SearchEngine] = Registry("search", "ovd.search_engines", fallback="index")
"""Builders are given the options. Any text that is no name is the folder of an index."""


def _folder(path: str) -> dict[str, Any]:
    return {"path": path}


def _address(scheme: str) -> Callable[[str], dict[str, Any]]:
    def options(rest: str) -> dict[str, Any]:
        return {"url": f"{scheme}:{rest}"}

    return options


_HERE = "ovd_envs.search.index"
SEARCH_ENGINES.register("index", f"{_HERE}:open_index", f"{_HERE}:IndexOptions", _folder)
for _scheme in ("http", "https"):
    SEARCH_ENGINES.register(
        _scheme, f"{_HERE}:open_server", f"{_HERE}:ServerOptions", _address(_scheme)
    )
SEARCH_ENGINES.register(
    "qdrant", f"{_HERE}:open_qdrant", f"{_HERE}:QdrantOptions", _address("qdrant")
)


def _writer(rest: str) -> dict[str, Any]:
    return {"writer": rest}


_SIMULATED = "ovd_envs.search.simulated.engine"
SEARCH_ENGINES.register(
    "simulated", f"{_SIMULATED}:build", f"{_SIMULATED}:SimulatedOptions", _writer
)


def make_search(given: Any) -> SearchEngine:
    """The search engine given by name, folder, URL, `module:Class`, mapping or as an object.

    Raises OptionError for anything else, RetrievalError for a folder that holds no sound index.
    """
    from ovd_envs.search.index import as_engine

    chosen = str(given) if isinstance(given, Path) else as_engine(given)
    engine: Any = SEARCH_ENGINES.choose(chosen).build()
    if not isinstance(engine, SearchEngine):
        raise OptionError(
            f"search={given!r:.100} has no method search(requests, k): expected an index"
            " folder (scripts/build_index.py makes one), a URL, module:Class, or an object"
        )
    return engine
