"""A language model behind an OpenAI-compatible server writes the passages."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from ovd_envs.errors import OptionError
from ovd_envs.llm.connection import Connection, NoAnswer, Server, Usage
from ovd_envs.llm.forms import Wish
from ovd_envs.search.simulated.base import WriteRequest
from ovd_envs.search.simulated.prompts import VERSION, read_passages, write_messages

_TRIES = 3
"""Samples of a reply that is not in the form."""
_TOKENS_OF_A_WORD = 3


class ModelWriter:
    """Many queries at a time; a reply that is not in the form is sampled again."""

    def __init__(
        self,
        model: str,
        url: str,
        *,
        temperature: float = 0.8,
        concurrency: int = 16,
        try_seconds: float = 60.0,
        total_seconds: float = 180.0,
        cache: Path | None = None,
    ) -> None:
        for package in ("httpx", "diskcache"):
            if importlib.util.find_spec(package) is None:
                raise OptionError(f'a simulated search needs {package}: pip install "ovd[teacher]"')
        server = Server(model, url, concurrency, try_seconds, total_seconds)
        self.temperature = temperature
        self._connection = Connection(server, os.environ.get("OPENAI_API_KEY"), cache, VERSION)

    @property
    def usage(self) -> Usage:
        """What was asked since this writer was made."""
        return self._connection.usage

    def write(self, requests: Sequence[WriteRequest]) -> list[list[tuple[str, str]] | None]:
        return self._connection.run([self._write(request) for request in requests])

    async def _write(self, request: WriteRequest) -> list[tuple[str, str]] | None:
        for number in range(_TRIES):
            wish = Wish(
                write_messages(request),
                40 + _TOKENS_OF_A_WORD * request.words * request.count,
                self.temperature,
                seed=request.seed + number,
            )
            try:
                reply = await self._connection.ask(wish)
            except NoAnswer:
                return None
            if passages := read_passages(reply.text, request.count, request.words):
                return passages
            self.usage.faults.update(["not in the form"])
        return None
