"""A served index as a search engine."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

from retrieval_index.documents import Document
from retrieval_index.errors import MissingPackageError, RetrievalError
from retrieval_index.index import Mode

_TRIES = 5
_LATER = (429, 502, 503, 504)
"""Answers that may be different a little later."""


class ServerError(RetrievalError):
    """A server cannot be reached, or answers with an error."""


class RetrievalClient:
    """`search` over HTTP, like that of a PassageIndex: `RetrievalClient("http://127.0.0.1:8000")`.

    A request is repeated where the server is busy or opening its index.
    """

    def __init__(self, url: str, *, mode: Mode | None = None, seconds: float = 60.0) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise MissingPackageError("httpx", f"searching {url}")
        import httpx

        self.url, self.mode, self.seconds = url.rstrip("/"), mode, seconds
        self._http = httpx.Client(timeout=seconds)

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
        return [
            [
                Document(
                    hit["document"]["id"],
                    hit["document"]["title"],
                    hit["document"]["text"],
                    hit["score"],
                )
                for hit in hits
            ]
            for hits in self._post(asked)["result"]
        ]

    def _post(self, asked: dict[str, Any]) -> Any:
        import httpx

        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(min(2.0, 0.1 * 2**attempt))
            try:
                answer = self._http.post(f"{self.url}/v1/search", json=asked)
            except httpx.TransportError as error:
                problem = f"{error or type(error).__name__}"
                continue
            if answer.status_code == 200:
                return answer.json()
            problem = f"status {answer.status_code}: {answer.text[:300]}"
            if answer.status_code not in _LATER:
                break
        raise ServerError(f"the index server at {self.url} does not answer ({problem})")


def _client(url: str, mode: Mode | None, seconds: float) -> RetrievalClient:
    return RetrievalClient(url, mode=mode, seconds=seconds)
