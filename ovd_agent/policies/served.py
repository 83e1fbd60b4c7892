"""A pool of `vllm serve` servers as a policy."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.policies.base import Completion, PolicyContext, PolicyUnavailable, Sampling
from ovd_agent.policies.publish import Probe, write_weights
from ovd_agent.policies.vllm_policy import ADAPTERS, check_context, request_options

T = TypeVar("T")
STUDENT = "student"
"""The name under which ovd serve-model serves a student."""
_WAIT, _LONGEST_WAIT = 0.25, 5.0


@dataclass(slots=True)
class Server:
    """One URL. It is `up` until a connection to it fails, and again from the publication that
    reaches it: a server that was started anew would play with other weights."""

    url: str
    up: bool = True
    in_flight: int = 0


def build(urls: Sequence[str], context: PolicyContext) -> ServedPolicy:
    return ServedPolicy(
        urls,
        context.tokenizer,
        folder=context.folder,
        max_length=context.max_length,
        adapters=context.lora_rank > 0,
    )


class ServedPolicy:
    """A `TrainedPolicy` over HTTP: ids in, ids and log-probabilities out.

    An episode stays with one server, whose prefix cache holds its earlier turns; a new one goes
    to the server with the fewest requests. What a failing server had under way goes elsewhere,
    with the same random seed. Servers read the weights from `folder`, so they share a disk.
    """

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        folder: Path,
        max_length: int = 1024,
        adapters: bool = False,
        try_seconds: float = 120.0,
        total_seconds: float = 300.0,
    ) -> None:
        """With `adapters` servers are given these alone, without the weights they belong to.
        `try_seconds` bounds one request, `total_seconds` one completion with all its tries, and the
        loading of weights."""
        self.servers = [Server(url.rstrip("/").removesuffix("/v1")) for url in urls]
        self.version, self.max_length, self.folder = 0, max_length, folder.resolve()
        self.faults: Counter[str] = Counter()
        """Failed tries by kind: "connection", "timeout", or the HTTP status."""
        self._probe = Probe.of(tokenizer)
        self._seed = 0
        self._takes_adapters, self._model = adapters, STUDENT
        self._try_seconds, self._total_seconds = try_seconds, total_seconds
        self._home: dict[int, Server] = {}
        self._pending: dict[int, Future[None]] = {}
        self._finished: queue.SimpleQueue[tuple[int, Completion | Exception]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="policy", daemon=True).start()
        # A server closes idle connections too, after 5 s: one that it is just closing must not be
        # used again, since a cut connection counts as a server's death.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
        self._client = httpx.AsyncClient(limits=limits)

    def seed(self, seed: int) -> None:
        self._seed = seed

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None:
        check_context(context, self.max_length)
        body = {
            "model": self._model,
            "prompt": list(context),
            **request_options(self._seed, key, context, sampling, self.max_length),
            "logprobs": 0,
            "return_token_ids": True,
        }
        self._pending[key] = self._started(self._complete(key, body))

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]:
        """Wait until `at_least` requests (or all there are) have finished. Raises
        PolicyUnavailable if no server can finish one."""
        finished: list[tuple[int, Completion]] = []
        while self._pending and (len(finished) < at_least or not self._finished.empty()):
            key, result = self._finished.get()
            if self._pending.pop(key, None) is None:
                continue  # released meanwhile
            if isinstance(result, Exception):
                raise result
            finished.append((key, result))
        return finished

    def release(self, key: int) -> None:
        self._home.pop(key, None)
        if request := self._pending.pop(key, None):
            request.cancel()

    def publish(self, model: PreTrainedModel, version: int) -> dict[str, float]:
        """Also brings back servers that were down, and drops those that do not take the weights.

        Raises RuntimeError while requests are under way, PolicyUnavailable if no server is left or
        one serves other weights."""
        if self._pending:
            raise RuntimeError(f"{len(self._pending)} requests are under way: collect them first")
        expected = self._probe.expected(model)
        folder = write_weights(model, self.folder, version, merged=not self._takes_adapters)
        self._model = ADAPTERS if self._takes_adapters else STUDENT
        found = self._started(self._publish(str(folder))).result()
        differences = [
            self._probe.check(server.url, expected, logprobs)
            for server, logprobs in zip(self.servers, found, strict=True)
            if logprobs is not None
        ]
        self.version = version
        return {"probe": max(differences), "servers": float(len(differences))}

    def _started(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _complete(self, key: int, body: dict[str, Any]) -> None:
        try:
            result = await self._tried(key, body)
        except Exception as error:
            result = error
        self._finished.put((key, result))

    async def _tried(self, key: int, body: dict[str, Any]) -> Completion:
        deadline, wait, problem = time.monotonic() + self._total_seconds, _WAIT, "no try"
        failed: Server | None = None
        while time.monotonic() < deadline:
            failed = server = self._server(key, failed, problem)
            server.in_flight += 1
            try:
                answer = await self._post(server, "/v1/completions", body)
                return self._completion(answer.json())
            except httpx.TimeoutException:
                problem = f"no answer in {self._try_seconds:g} s"
                self.faults["timeout"] += 1
            except httpx.TransportError as error:
                problem, server.up = f"{type(error).__name__} {error}", False
                self.faults["connection"] += 1
                continue  # elsewhere, at once
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                problem = f"HTTP {status}: {error.response.text[:200]}"
                self.faults[str(status)] += 1
                if status < 500 and status not in (408, 429):
                    raise PolicyUnavailable(f"{server.url} refuses a request: {problem}") from None
            finally:
                server.in_flight -= 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise PolicyUnavailable(f"no completion in {self._total_seconds:g} s; last: {problem}")

    def _server(self, key: int, failed: Server | None, problem: str) -> Server:
        """The episode's own server while it does not fail, else the one with the fewest requests
        of those that are up, the failed one last."""
        home = self._home.get(key)
        if home is None or not home.up or home is failed:
            up = [server for server in self.servers if server.up]
            if not up:
                urls = ", ".join(server.url for server in self.servers)
                raise PolicyUnavailable(
                    f"no student answers at {urls} ({problem}): start one by"
                    " ovd serve-model --role student, and run the same command to resume"
                )
            home = self._home[key] = min(
                up, key=lambda server: (server is failed, server.in_flight)
            )
        return home

    async def _post(
        self, server: Server, route: str, body: dict[str, Any], seconds: float | None = None
    ) -> httpx.Response:
        limit = seconds or self._try_seconds
        response = await self._client.post(server.url + route, json=body, timeout=limit)
        return response.raise_for_status()

    def _completion(self, answer: dict[str, Any]) -> Completion:
        choice = answer["choices"][0]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        finish = "stop" if choice["finish_reason"] == "stop" else "length"
        return Completion(ids, logprobs, finish, self.version)

    async def _publish(self, folder: str) -> list[list[float] | None]:
        """Each server's log-probabilities of the probe; None for one that is down."""
        tried = await asyncio.gather(
            *(self._take_over(server, folder) for server in self.servers), return_exceptions=True
        )
        problems: list[str] = []
        for server, result in zip(self.servers, tried, strict=True):
            server.up = not isinstance(result, BaseException)
            if isinstance(result, BaseException):
                if not isinstance(result, httpx.HTTPError):
                    raise result
                problems.append(f"{server.url}: {type(result).__name__} {result}")
        if not any(server.up for server in self.servers):
            rank = " --lora-rank RANK" if self._takes_adapters else ""
            raise PolicyUnavailable(
                f"no server takes the student's weights ({'; '.join(problems)}): start one by"
                f" ovd serve-model --role student{rank}"
            )
        return [None if isinstance(result, BaseException) else result for result in tried]

    async def _take_over(self, server: Server, folder: str) -> list[float]:
        await (self._load_adapters if self._takes_adapters else self._load)(server, folder)
        await self._post(server, "/reset_prefix_cache", {})
        body = {
            "model": self._model,
            "prompt": self._probe.ids,
            "max_tokens": 1,
            "prompt_logprobs": 0,
        }
        answer = await self._post(server, "/v1/completions", body)
        found = answer.json()["choices"][0]["prompt_logprobs"][1:]
        ids = self._probe.ids[1:]
        return [place[str(token)]["logprob"] for token, place in zip(ids, found, strict=True)]

    async def _load(self, server: Server, folder: str) -> None:
        load = {"method": "load_folder", "args": [folder]}
        await self._post(server, "/collective_rpc", load, self._total_seconds)

    async def _load_adapters(self, server: Server, folder: str) -> None:
        """Not in place: vLLM would then load them again with every request."""
        known = await self._client.get(f"{server.url}/v1/models", timeout=self._try_seconds)
        if any(each["id"] == ADAPTERS for each in known.raise_for_status().json()["data"]):
            await self._post(server, "/v1/unload_lora_adapter", {"lora_name": ADAPTERS})
        load = {"lora_name": ADAPTERS, "lora_path": folder}
        await self._post(server, "/v1/load_lora_adapter", load, self._total_seconds)
