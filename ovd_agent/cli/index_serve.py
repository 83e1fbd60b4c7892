"""Serve an index over HTTP: `ovd index serve --index my_index`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from retrieval_index.errors import MissingPackageError, RetrievalError
from retrieval_index.manifest import live_generation

try:
    import uvicorn

    from retrieval_index.serving.app import ServerOptions, make_app
    from retrieval_index.serving.limits import is_loopback
except ImportError as error:
    name = error.name or "fastapi"
    raise MissingPackageError(name, "serving an index", "serve") from None


@dataclass
class Options:
    """Answer searches at /retrieve, in the dialects of Search-R1, SkyRL, rLLM and gem."""

    index: Path
    """An index folder; a generation that is committed later is switched to at once."""
    host: str = "127.0.0.1"
    """Only this machine can reach it, unless you say 0.0.0.0."""
    port: int = 8000
    server: ServerOptions = field(default_factory=ServerOptions)


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    if live_generation(options.index) is None:
        raise RetrievalError(
            f"{options.index} holds no index; make one: ovd index build --corpus passages.jsonl"
            f" --out {options.index}"
        )
    print(f"{options.index} at http://{options.host}:{options.port}/ (search page) and /retrieve")
    if not is_loopback(options.host):
        print("Anybody who reaches this machine can search it: there is no password.")
    app = make_app(options.index, options.server)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0
