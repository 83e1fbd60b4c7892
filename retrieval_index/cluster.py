"""Encoding on a Ray cluster: pieces of the corpus go out, vectors come back in order.

A worker that is lost costs the piece it was at, which Ray gives to another.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from retrieval_index.encoders import Encoder, Vectors
from retrieval_index.errors import MissingPackageError, RetrievalError

Encoded = tuple[Vectors, int]
"""The vectors of a piece, and how many of its texts are longer than the encoder reads."""
_PIECES_PER_CPU = 2
"""At most this many wait or are under way: workers stay busy, and memory does not grow with the
corpus."""


def encode_on_ray(
    encoder: Encoder, pieces: Iterable[list[str]], address: str, function: Any
) -> Iterator[Encoded]:
    """`function(encoder, piece)` for every piece, in their order, on the cluster at `address`
    ("auto" for the one of this machine, "local" to start one). Raises RetrievalError where there
    is none."""
    ray = _ray()
    try:
        ray.init(
            address=address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RetrievalError(
            f"--ray {address}: no cluster answers ({error}); start one with `ray start --head`, or"
            " give --ray local"
        ) from None
    everywhere = ray.put(encoder)
    remote = ray.remote(max_retries=-1, num_cpus=1)(function)
    most = _PIECES_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[Any] = deque()
    for piece in pieces:
        waiting.append(remote.remote(everywhere, piece))
        if len(waiting) >= most:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def check_installed() -> None:
    """Raises MissingPackageError unless Ray is here."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError("ray", "encoding on a cluster", "cluster")


def _ray() -> Any:
    check_installed()
    return importlib.import_module("ray")
