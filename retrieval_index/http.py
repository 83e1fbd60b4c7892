"""JSON over HTTP, with limits that hold whatever the server does.

One deadline covers connecting, headers and body, however slowly they arrive. A body is read up to a
bound, also after decompression. Redirects are not followed: what is sent goes to the given host
alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from netrc import NetrcParseError
from typing import Any, TypeVar
from urllib.parse import urlsplit

from retrieval_index.errors import OptionError, OVDError

T = TypeVar("T")

log = logging.getLogger(__name__)
MAX_BODY = 64 * 2**20
"""Bytes of a reply, after decompression."""
_SEVERAL = 3
"""Tries of one request after which a warning says that they fail."""
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Answers that may be different a little later."""
_EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)
_WORDS = 200
"""Characters of a server's own words in a message."""


class HTTPFault(Exception):
    """A request that brought no usable reply.

    `kind` is "timeout", "connection", "junk", "redirect" or the HTTP status. `again` says whether
    another try may go well, `after` how many seconds later (0: at once; None: unknown). `text` is
    what the server wrote.
    """

    def __init__(
        self, kind: str, why: str, *, again: bool = True, after: float | None = None, text: str = ""
    ) -> None:
        super().__init__(why)
        self.kind, self.again, self.after, self.text = kind, again, after, text


class OutOfTime(HTTPFault):
    """The last fault of a request whose time or tries are used up."""


def check_address(url: str, option: str, error: type[OVDError]) -> str:
    """The URL without a slash at its end. Raises `error` where it is no http(s) address, or
    carries a password, which would be stored and printed with it."""
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_valid = urlsplit(""), False
    if "@" in parts.netloc:
        raise error(
            f"{option}: the URL of {parts.hostname} carries a name or a password, which would be"
            " stored with the run; write them to ~/.netrc, or an API key to OPENAI_API_KEY"
        )
    odd = any(not char.isprintable() or char.isspace() for char in url)
    scheme_is_known = parts.scheme in ("http", "https")
    if odd or parts.query or not (scheme_is_known and parts.hostname and port_is_valid):
        raise error(f"{option}={url!r}: expected http://HOST[:PORT][/PATH] or https://...")
    return url.rstrip("/")


class JSONClient:
    """Posts JSON and reads JSON, in an event loop of its own.

    Coroutines are started by `run` or `start`, from any thread and after a fork.
    """

    def __init__(
        self, headers: Mapping[str, str] | None = None, *, max_body: int = MAX_BODY
    ) -> None:
        self._headers, self._max_body = dict(headers or {}), max_body
        self._lock = threading.Lock()
        self._process = -1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that uses this client."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        """The `concurrent.futures.Future` of a coroutine that uses this client."""
        with self._lock:
            if self._process != os.getpid():
                try:
                    self._open()
                except OptionError:
                    work.close()
                    raise
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def post(self, url: str, body: Any, seconds: float) -> Any:
        """What the server answers, from JSON. Raises HTTPFault."""
        return await self._request("POST", url, body, seconds)

    async def order(self, url: str, body: Any, seconds: float) -> None:
        """Post what is answered with success alone, in whatever words. Raises HTTPFault."""
        await self._request("POST", url, body, seconds, reads=False)

    async def get(self, url: str, seconds: float) -> Any:
        """What the server answers, from JSON. Raises HTTPFault."""
        return await self._request("GET", url, None, seconds)

    def _open(self) -> None:
        import httpx

        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="http", daemon=True).start()
        # A server closes idle connections too, often after 5 s. One that it is just closing must
        # not be used again.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
        self._http = httpx.AsyncClient(
            limits=limits,
            timeout=None,  # `_request` has one deadline for everything
            headers={"Accept-Encoding": "identity", **self._headers},
            auth=_passwords(),
            follow_redirects=False,
        )

    async def _request(
        self, method: str, url: str, body: Any, seconds: float, *, reads: bool = True
    ) -> Any:
        import httpx

        sent = None if body is None else json.dumps(body).encode("ascii")
        headers = {} if sent is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(method, url, content=sent, headers=headers) as response,
            ):
                text = await self._body(response)
        except TimeoutError:
            raise HTTPFault("timeout", f"no answer in {seconds:.3g} seconds") from None
        except httpx.DecodingError as error:
            raise HTTPFault("junk", f"the reply cannot be decompressed ({error})") from None
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise HTTPFault("connection", f"the connection failed ({why})") from None
        _check_status(response, text)
        return _parsed(response, text) if reads else None

    async def _body(self, response: Any) -> str:
        parts: list[bytes] = []
        size = 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > self._max_body:
                raise HTTPFault("junk", f"the reply is longer than {self._max_body} bytes")
            parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")


def _passwords() -> Any:
    """Those of ~/.netrc, each for its own host."""
    import httpx

    if not os.path.exists(os.path.expanduser("~/.netrc")):
        return None
    try:
        return httpx.NetRCAuth()
    except NetrcParseError as error:
        raise OptionError(f"~/.netrc: {error}") from None


async def persist(
    attempt: Callable[[float], Awaitable[T]],
    *,
    address: str,
    try_seconds: float,
    total_seconds: float,
    tries: int | None = None,
    on_fault: Callable[[HTTPFault], None] = lambda fault: None,
) -> T:
    """Call `attempt(seconds)` until it gives a result, with growing pauses in between.

    Raises the HTTPFault of an attempt that is hopeless, OutOfTime when the time or the tries are
    used up. `on_fault` hears of each, and so does the log, which names the `address`.
    """
    deadline, wait = time.monotonic() + total_seconds, _FIRST_WAIT
    last, made = HTTPFault("timeout", "no try was made"), 0
    while (left := deadline - time.monotonic()) > 0 and made != tries:
        seconds, made = min(left, try_seconds), made + 1
        try:
            return await attempt(seconds)
        except HTTPFault as fault:
            on_fault(fault)
            if not fault.again or (fault.after or 0) > total_seconds:
                raise
            if fault.after != 0:  # which is to be tried otherwise, at once
                level = logging.WARNING if made == _SEVERAL else logging.INFO
                log.log(level, "%s: try %d failed (%s); it is tried again", address, made, fault)
            # What the deadline itself cut short says nothing of the server.
            if made == 1 or fault.kind != "timeout" or seconds == try_seconds:
                last = fault
            if fault.after != 0 and made != tries:
                pause = max(fault.after or 0.0, wait * (0.5 + random.random()))
                await asyncio.sleep(max(0.0, min(pause, deadline - time.monotonic())))
                wait = min(2 * wait, _LONGEST_WAIT)
    how_long = f"after {made} tries" if made == tries else f"for {total_seconds:g} seconds"
    raise OutOfTime(last.kind, f"{last}, {how_long}", again=False, text=last.text)


def _check_status(response: Any, text: str) -> None:
    status = response.status_code
    if 300 <= status < 400:
        to = response.headers.get("location", "nowhere")
        raise HTTPFault("redirect", f"redirected to {to}: give that address", again=False)
    if status >= 400:
        after = _retry_after(response.headers.get("retry-after"))
        again = status in _PASSING and not _EXHAUSTED.search(text)
        why = f"HTTP {status}: {said(text)}"
        raise HTTPFault(str(status), why, again=again, after=after, text=text)


def _parsed(response: Any, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        kind = response.headers.get("content-type", "no content type").split(";")[0]
        # A server that can only stream will not do otherwise the next time.
        again = kind != "text/event-stream"
        raise HTTPFault("junk", f"not JSON but {kind}: {said(text)}", again=again) from None


def said(text: str) -> str:
    """A server's own words, in one line: what its JSON says of an error, or the text of a page."""
    try:
        words = _message(json.loads(text))
    except (ValueError, RecursionError):
        words = ""
    words = words or re.sub(r"<[^>]*>", " ", text)
    plain = "".join(char if char.isprintable() else " " for char in words)
    return " ".join(plain.split())[:_WORDS] or "no words"


def _message(content: Any) -> str:
    """The first text under the names that servers use for an error's message."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return next(filter(None, map(_message, content)), "")
    if isinstance(content, dict):
        found = (content.get(name) for name in ("error", "message", "detail", "msg", "errors"))
        return next(filter(None, map(_message, found)), "")
    return ""


def _retry_after(header: str | None) -> float | None:
    """Seconds, where the header names a positive number or a date to come."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None
