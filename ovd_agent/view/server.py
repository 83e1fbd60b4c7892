"""The pages of `ovd view`: a page that never changes, and JSON that it asks for.

Texts of episodes reach the page as JSON and are shown as text; the content security policy forbids
anything else to run or to load.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from ovd_agent.view.store import RunStore

_HERE = Path(__file__).parent
_FILES = {
    "/": ("view.html", "text/html; charset=utf-8"),
    "/view.js": ("view.js", "text/javascript; charset=utf-8"),
    "/view.css": ("view.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ViewServer(ThreadingHTTPServer):
    """Serves a run on `host`, which is loopback unless told otherwise."""

    daemon_threads = True

    def __init__(self, store: RunStore, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.store = store

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path in _FILES:
            name, kind = _FILES[address.path]
            self._send(200, (_HERE / name).read_bytes(), kind)
            return
        try:
            found = self._answer(address.path, dict(parse_qsl(address.query)))
        except (KeyError, ValueError) as error:
            self._send_json(404, {"error": str(error)})
            return
        self._send_json(200, found)

    def _answer(self, path: str, wanted: dict[str, str]) -> Any:
        store = cast(ViewServer, self.server).store
        if path == "/api/run":
            return store.summary()
        if path == "/api/episodes":
            return store.page(wanted.pop("source"), wanted)
        if path == "/api/episode":
            return store.episode(wanted["source"], int(wanted["place"]))
        raise KeyError(path)

    def _send_json(self, status: int, content: Any) -> None:
        # As ASCII: a student may have written half of a surrogate pair.
        self._send(status, json.dumps(content).encode("ascii"), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
