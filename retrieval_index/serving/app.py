"""The HTTP application over an index folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from retrieval_index.documents import Document
from retrieval_index.encoders import Encoder
from retrieval_index.errors import RetrievalError
from retrieval_index.index import Mode, PassageIndex
from retrieval_index.manifest import live_generation
from retrieval_index.serving.batcher import Batcher, DeadlinePassed, Overloaded
from retrieval_index.serving.dialects import BadRequest, read_request, write_answer
from retrieval_index.serving.limits import KnownHosts, TooLarge, read_body
from retrieval_index.serving.metrics import Metrics

PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER = "1"


@dataclass(frozen=True)
class ServerOptions:
    """How requests are answered."""

    mode: Mode | None = None
    """"dense", "bm25" or "hybrid", where a request does not say; the index's own by default."""
    seconds: float = 30.0
    """A request that takes longer gets 504."""
    max_batch: int = 256
    """Queries searched at a time."""
    max_waiting: int = 4096
    """When this many queries wait, new ones get 429."""
    cache_bytes: int = 64 << 20
    """Memory for results that are kept; 0 keeps none."""
    watch_seconds: float = 1.0
    """How often the folder is looked at for a newer generation."""
    hosts: tuple[str, ...] = ()
    """Names, besides those of this machine, by which clients may call the server."""


class Server:
    """The live generation of an index folder, and the batcher that searches it."""

    def __init__(self, folder: Path, options: ServerOptions, encoder: Encoder | None) -> None:
        self.folder, self.options = folder, options
        self.index: PassageIndex | None = None
        self.problem = ""
        """Why the newest generation could not be opened, if so."""
        self._encoder = encoder
        self.batcher = Batcher(
            self._search,
            lambda: self.index.fingerprint if self.index else "",
            options.max_batch,
            options.max_waiting,
            options.cache_bytes,
        )

    def open(self) -> None:
        """Open the live generation if it is not open. Raises RetrievalError."""
        generation = live_generation(self.folder)
        if self.index is None or generation != self.index.generation:
            index = PassageIndex.open(self.folder, encoder=self._encoder, mode=self.options.mode)
            index.search(["warm up"], 1)
            self.index = index

    async def watch(self) -> None:
        """Open each new generation beside the old one, which answers until then."""
        while True:
            try:
                await asyncio.to_thread(self.open)
                self.problem = ""
            except Exception as error:  # whatever is damaged, the next generation may be whole
                known = isinstance(error, RetrievalError | OSError)
                self.problem = str(error) if known else f"the index does not open: {error!r}"
            await asyncio.sleep(self.options.watch_seconds)

    def _search(self, queries: list[str], k: int, mode: Mode | None) -> list[list[Document]]:
        assert self.index is not None
        return self.index.search(queries, k, mode)


def make_app(
    folder: str | Path, options: ServerOptions | None = None, *, encoder: Encoder | None = None
) -> FastAPI:
    """The application; the index is opened in the background once it runs."""
    server = Server(Path(folder), options or ServerOptions(), encoder)
    metrics = Metrics(server.batcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        tasks = [asyncio.create_task(server.batcher.run()), asyncio.create_task(server.watch())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.batcher.close()

    # Without its pages of documentation, which load scripts from elsewhere.
    app = FastAPI(title="OVD passage index", lifespan=lifespan, openapi_url=None)
    app.state.server = server
    app.add_middleware(KnownHosts, also=server.options.hosts)

    @app.post("/retrieve")
    @app.post("/v1/search")
    async def retrieve(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        began = time.perf_counter()
        response = await _respond(server, request)
        metrics.observe(response.status_code, time.perf_counter() - began)
        return response

    @app.get("/healthz")
    async def alive() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        if server.index is None:
            return _problem(503, server.problem or "the index is being opened")
        ready = {"status": "ready", "generation": server.index.generation.name}
        return JSONResponse(ready | ({"problem": server.problem} if server.problem else {}))

    @app.get("/v1/manifest")
    async def manifest() -> Response:  # pyright: ignore[reportUnusedFunction]
        if server.index is None:
            return _problem(503, server.problem or "the index is being opened")
        record: dict[str, Any] = asdict(server.index.manifest)
        found = {"index_fingerprint": server.index.fingerprint, "mode": server.index.mode}
        return JSONResponse(record | found)

    @app.get("/metrics")
    async def measured() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:  # pyright: ignore[reportUnusedFunction]
        return PAGE.read_text("utf-8")

    return app


async def _respond(server: Server, request: Request) -> Response:
    try:
        async with asyncio.timeout(server.options.seconds):
            body = await read_body(request)
    except TimeoutError:
        return _problem(408, f"the request did not come within {server.options.seconds:g} s")
    except TooLarge as error:
        return _problem(413, str(error))
    return await _answer(server, body, request.headers.get("content-type", ""))


async def _answer(server: Server, body: bytes, content_type: str) -> Response:
    try:
        request = read_request(body, content_type)
    except BadRequest as error:
        return _problem(422, str(error))
    index = server.index
    if index is None:
        return _problem(503, server.problem or "the index is being opened", retry=True)
    if request.mode in ("bm25", "hybrid") and index.manifest.bm25 is None:
        return _problem(422, f'"mode" is {request.mode!r}: the index was built without BM25')
    try:
        found = await server.batcher.ask(
            request.queries, request.k, request.mode, server.options.seconds
        )
    except Overloaded as error:
        return _problem(429, str(error), retry=True)
    except DeadlinePassed as error:
        return _problem(504, str(error))
    except Exception as error:  # a search that fails is the server's fault, and is told as such
        return _problem(500, f"the search failed: {error!r}")
    content, media_type = write_answer(request, found)
    return Response(content, media_type=media_type)


def _problem(status: int, message: str, *, retry: bool = False) -> Response:
    headers = {"Retry-After": RETRY_AFTER} if retry else None
    return JSONResponse({"error": message}, status, headers)
