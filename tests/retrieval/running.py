"""Servers as tests run them."""

import threading
import time
from contextlib import contextmanager

import uvicorn
from fastapi.testclient import TestClient


def connected(app):
    """A client in this process; use it as a context manager, so that the server's tasks run."""
    return TestClient(app, base_url="http://127.0.0.1")


def ready(client):
    """The client, once its server has opened the index."""
    for _ in range(2000):
        if client.get("/readyz").status_code == 200:
            return client
        time.sleep(0.005)
    raise AssertionError(client.get("/readyz").text)


@contextmanager
def served(app):
    """The port of a real server."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()
