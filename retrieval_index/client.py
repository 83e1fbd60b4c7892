"""A served index as a search engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from retrieval_index.documents import Document
from retrieval_index.errors import MissingPackageError, RetrievalError
from retrieval_index.http import HTTPFault, JSONClient, OutOfTime, check_address, persist
from retrieval_index.index import Mode

_TRIES = 5


class ServerError(RetrievalError):
    """A server cannot be reached, or answers with an error."""


class RetrievalClient:
    """`search` over HTTP, like that of a PassageIndex: `RetrievalClient("http://127.0.0.1:8000")`.

    A request is repeated where the server is busy or opening its index.
    """

    def __init__(self, url: str, *, mode: Mode | None = None, seconds: float = 60.0) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise MissingPackageError("httpx", f"searching {url}")
        self.url = check_address(url, "url", RetrievalError)
        self.mode, self.seconds = mode, seconds
        self._http = JSONClient()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled by its address."""
        return _client, (self.url, self.mode, self.seconds)

    def __deepcopy__(self, memo: object) -> RetrievalClient:
        return self

    def search(
        self, queries: Sequence[str], k: int = 5, mode: Mode | None = None
    ) -> list[list[Document]]:
        """The `k` best passages for each query. Raises ServerError."""
        if not queries:
            return []
        asked: dict[str, Any] = {"queries": list(queries), "topk": k, "return_scores": True}
        if chosen := mode or self.mode:
            asked["mode"] = chosen
        try:
            found = self._post(asked)["result"]
            return [[_document(hit) for hit in hits] for hits in found]
        except (KeyError, TypeError) as error:
            raise ServerError(
                f"the server at {self.url} answers like no index server"
                f" ({type(error).__name__} {error}): expected one of `ovd index serve`"
            ) from None

    def _post(self, asked: dict[str, Any]) -> Any:
        url = f"{self.url}/v1/search"
        try:
            return self._http.run(
                persist(
                    lambda seconds: self._http.post(url, asked, seconds),
                    address=self.url,
                    try_seconds=self.seconds,
                    total_seconds=_TRIES * self.seconds,
                    tries=_TRIES,
                )
            )
        except HTTPFault as fault:
            does = "does not answer" if isinstance(fault, OutOfTime) else "refuses the request"
            raise ServerError(f"the index server at {self.url} {does} ({fault})") from None


def _document(hit: dict[str, Any]) -> Document:
    found = hit["document"]
    return Document(found["id"], found["title"], found["text"], hit["score"])


def _client(url: str, mode: Mode | None, seconds: float) -> RetrievalClient:
    return RetrievalClient(url, mode=mode, seconds=seconds)
