"""An HTTP server of chat completions that fails in every way it can."""

import contextlib
import gzip
import json
import math
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer_of(text, tokens=None):
    """A chat completion; `tokens` are those of the text, with the likely ones at each place."""
    tokens = tokens or [(text, [(t, 0.5) for t in (text, "3", "nine")])]
    content = [
        {
            "token": token,
            "logprob": -0.7,
            "bytes": None,
            "top_logprobs": [
                {"token": t, "logprob": math.log(p) if 0 < p <= 1 else p, "bytes": None}
                for t, p in likely
            ],
        }
        for token, likely in tokens
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": content, "refusal": None},
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return {**answer, "choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    """Answers chat completions by `plan(number, body)`, which gives a kind of fault, a reply's
    text, or a tuple: status, text, content type and headers."""

    daemon_threads = True

    def __init__(self, plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()
        self.plan, self.lock = plan, threading.Lock()
        self.bodies, self.authorizations, self.faults = [], [], Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.authorizations.append(self.headers["Authorization"])
            reply = self.server.plan(number, body)
            if isinstance(reply, str) and reply in FAULTS:
                self.server.faults[FAULTS[reply]] += 1
        if isinstance(reply, tuple):
            status, text, *more = reply
            kind, headers = (more + ["application/json", {}][len(more) :])[:2]
            self._send(status, text.encode(), kind, **headers)
        elif isinstance(reply, dict | list):
            self._send(200, json.dumps(reply).encode())
        else:
            with contextlib.suppress(OSError):  # it was given up
                getattr(self, f"_{reply}", lambda: self._answer(reply))()

    def _send(self, status, data, kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, text, tokens=None):
        self._send(200, json.dumps(answer_of(text, tokens)).encode())

    def _late(self):
        """A line break first, then the digit: 3 by three to one against 9, in two spellings."""
        self._answer("\n3", [("\n", [("\n", 1.0)]), ("3", [("3", 0.5), (" 3", 0.25), ("9", 0.25)])])

    def _odd(self):
        """A probability that is none."""
        self._answer("3", [("3", [("3", 1000.0), ("9", math.nan)])])

    def _busy(self):
        self._send(429, b'{"error": {"message": "busy"}}', Retry_After="0")

    def _broken(self):
        self._send(500, b'{"error": {"message": "broken"}}', Retry_After="0")

    def _hang(self):
        self.server.over.wait(6)
        self.close_connection = True

    def _drip(self):
        """A byte of the body now and then: no pause between two reads is long."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self._dripped(b" " * 100_000)

    def _drip_headers(self):
        self._dripped(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000)

    def _dripped(self, data):
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.over.wait(0.05):
                break
        self.close_connection = True

    def _bomb(self):
        """200 MB of spaces, in 200 KB."""
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        data = BOMB
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self):
        """The connection is reset, not closed."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _deep(self):
        self._send(200, b"[" * 200_000)

    def _cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"id"')
        self.close_connection = True

    def _junk(self):
        self._send(200, b"{not json")

    def _html(self):
        self._send(200, b"<html>Bad gateway</html>", "text/html")

    def _hollow(self):
        self._send(200, b'{"choices": []}')

    def _unknown(self):
        self._send(400, b'{"error": {"message": "no such parameter"}}')

    def _forbidden(self):
        self._send(401, b'{"error": {"message": "wrong key"}}')


BOMB = gzip.compress(b" " * 200_000_000, compresslevel=1)
FAULTS = {
    "busy": "429",
    "broken": "500",
    "hang": "timeout",
    "cut": "connection",
    "junk": "junk",
    "html": "junk",
    "hollow": "junk",
    "deep": "junk",
    "bomb": "junk",
    "reset": "connection",
    "drip": "timeout",
    "drip_headers": "timeout",
}
"""Faults that pass, and how a client counts them."""
