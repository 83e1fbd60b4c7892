"""What a server refuses before it reads a request."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 16 << 20


class TooLarge(ValueError):
    """A body of more bytes than are read."""


async def read_body(request: Request) -> bytes:
    """Raises TooLarge once more than `MAX_BODY` bytes came."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise TooLarge(
                f"the body has more than {MAX_BODY >> 20} MiB: send several smaller requests"
            )
    return bytes(body)


class KnownHosts:
    """Answers only requests that call this machine by an address, its own names or those given.

    A page elsewhere can let its name point to this machine (DNS rebinding), and so read through a
    visitor's browser what only this machine may; the Host header then has that name.
    """

    def __init__(self, app: ASGIApp, also: Sequence[str] = ()) -> None:
        self._app = app
        own = ("localhost", socket.gethostname(), socket.getfqdn())
        self._names = {name.lower() for name in (*own, *also)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else "localhost"
        if not self._known(host):
            message = f"unknown host {host[:100]!r}: start the server with --server.hosts NAME"
            await JSONResponse({"error": message}, 400)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _known(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or is_address(name)


def host_name(host: str) -> str:
    """The name of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a server bound there can be reached from this machine only."""
    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)
