"""A pool of `vllm serve` servers as a policy."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.models import end_ids
from ovd_agent.policies.base import Completion, PolicyContext, PolicyUnavailable, Sampling
from ovd_agent.policies.publish import Probe, write_weights
from ovd_agent.policies.vllm_policy import ADAPTERS, check_context, request_options
from retrieval_index.http import HTTPFault, JSONClient, OutOfTime, persist

STUDENT = "student"
"""The name under which ovd serve-model serves a student."""
log = logging.getLogger(__name__)


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
        ends=end_ids(context.model, context.tokenizer),
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
        ends: Iterable[int] = (),
        try_seconds: float = 120.0,
        total_seconds: float = 300.0,
    ) -> None:
        """With `adapters` servers are given these alone, without the weights they belong to. `ends`
        are the tokens that end a turn. `try_seconds` bounds one request, `total_seconds` one
        completion with all its tries, and the loading of weights."""
        self.servers = [Server(url.rstrip("/").removesuffix("/v1")) for url in urls]
        self.version, self.max_length, self.folder = 0, max_length, folder.resolve()
        self.faults: Counter[str] = Counter()
        """Failed tries by kind: "connection", "timeout", or the HTTP status."""
        self._probe = Probe.of(tokenizer)
        self._seed, self._ends = 0, sorted(ends)
        self._takes_adapters, self._model = adapters, STUDENT
        self._try_seconds, self._total_seconds = try_seconds, total_seconds
        self._home: dict[int, Server] = {}
        self._pending: dict[int, Future[None]] = {}
        self._finished: queue.SimpleQueue[tuple[int, Completion | Exception]] = queue.SimpleQueue()
        self._http = JSONClient()

    def seed(self, seed: int) -> None:
        self._seed = seed

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None:
        check_context(context, self.max_length)
        body = {
            "model": self._model,
            "prompt": list(context),
            **request_options(self._seed, key, context, sampling, self.max_length, self._ends),
            "logprobs": 0,
            "return_token_ids": True,
        }
        self._pending[key] = self._http.start(self._complete(key, body))

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
        found = self._http.run(self._publish(str(folder)))
        engines = {
            server.url: logprobs
            for server, logprobs in zip(self.servers, found, strict=True)
            if logprobs is not None
        }
        difference = self._probe.check(expected, engines)
        self.version = version
        return {"probe": difference, "servers": float(len(engines))}

    def rest(self) -> None:
        """Nothing: the servers have devices of their own."""

    async def _complete(self, key: int, body: dict[str, Any]) -> None:
        try:
            result = await self._tried(key, body)
        except Exception as error:
            result = error
        self._finished.put((key, result))

    async def _tried(self, key: int, body: dict[str, Any]) -> Completion:
        failed: Server | None = None
        problem = "no try"

        async def attempt(seconds: float) -> Completion:
            nonlocal failed, problem
            failed = server = self._server(key, failed, problem)
            server.in_flight += 1
            try:
                return await self._completed(server, body, seconds)
            except HTTPFault as fault:
                problem = str(fault)
                if fault.kind == "connection":
                    server.up, fault.after = False, 0.0  # elsewhere, at once
                    log.warning("%s is left out until the next update: %s", server.url, fault)
                elif not fault.again:
                    raise PolicyUnavailable(f"{server.url} refuses a request: {fault}") from None
                raise
            finally:
                server.in_flight -= 1

        try:
            return await persist(
                attempt,
                address="student",
                try_seconds=self._try_seconds,
                total_seconds=self._total_seconds,
                on_fault=lambda fault: self.faults.update([fault.kind]),
            )
        except OutOfTime as fault:
            raise PolicyUnavailable(f"no completion: {fault}") from None

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

    async def _completed(self, server: Server, body: dict[str, Any], seconds: float) -> Completion:
        answer = await self._http.post(f"{server.url}/v1/completions", body, seconds)
        try:
            choice = answer["choices"][0]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            finish = "stop" if choice["finish_reason"] == "stop" else "length"
            if len(ids) != len(logprobs):
                raise TypeError(f"{len(logprobs)} log-probabilities for {len(ids)} ids")
        except (KeyError, TypeError, IndexError) as error:
            raise HTTPFault("junk", f"not a completion ({type(error).__name__} {error})") from None
        return Completion(ids, logprobs, finish, self.version)

    async def _publish(self, folder: str) -> list[list[float] | None]:
        """Each server's log-probabilities of the probe; None for one that is down."""
        tried = await asyncio.gather(
            *(self._take_over(server, folder) for server in self.servers), return_exceptions=True
        )
        problems: list[tuple[str, HTTPFault]] = []
        for server, result in zip(self.servers, tried, strict=True):
            server.up = not isinstance(result, BaseException)
            if isinstance(result, BaseException):
                if not isinstance(result, HTTPFault):
                    raise result
                problems.append((server.url, result))
        if not any(server.up for server in self.servers):
            rank = " --lora-rank RANK" if self._takes_adapters else ""
            raise PolicyUnavailable(
                f"no server takes the student's weights ({_listed(problems)}): start one by"
                f" ovd serve-model --role student{rank}"
            )
        for problem in problems:
            log.warning("%s is left out until the next update: %s", *problem)
        return [None if isinstance(result, BaseException) else result for result in tried]

    async def _take_over(self, server: Server, folder: str) -> list[float]:
        await (self._load_adapters if self._takes_adapters else self._load)(server, folder)
        await self._http.order(f"{server.url}/reset_prefix_cache", {}, self._try_seconds)
        body = {
            "model": self._model,
            "prompt": self._probe.ids,
            "max_tokens": 1,
            "prompt_logprobs": 0,
        }
        answer = await self._http.post(f"{server.url}/v1/completions", body, self._try_seconds)
        ids = self._probe.ids[1:]
        try:
            found = answer["choices"][0]["prompt_logprobs"][1:]
            return [place[str(token)]["logprob"] for token, place in zip(ids, found, strict=True)]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise HTTPFault("junk", f"no log-probabilities of a prompt ({error!r})") from None

    async def _load(self, server: Server, folder: str) -> None:
        load = {"method": "load_folder", "args": [folder]}
        await self._http.order(f"{server.url}/collective_rpc", load, self._total_seconds)

    async def _load_adapters(self, server: Server, folder: str) -> None:
        """Not in place: vLLM would then load them again with every request."""
        known = await self._http.get(f"{server.url}/v1/models", self._try_seconds)
        if any(each.get("id") == ADAPTERS for each in known.get("data", [])):
            unload, name = f"{server.url}/v1/unload_lora_adapter", {"lora_name": ADAPTERS}
            await self._http.order(unload, name, self._try_seconds)
        load = {"lora_name": ADAPTERS, "lora_path": folder}
        await self._http.order(f"{server.url}/v1/load_lora_adapter", load, self._total_seconds)


def _listed(problems: Sequence[tuple[str, HTTPFault]]) -> str:
    return "; ".join(f"{url}: {fault}" for url, fault in problems)
