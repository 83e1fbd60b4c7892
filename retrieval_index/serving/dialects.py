"""The requests that search agents send, and the answers that each of them reads.

| client | request | answer |
| --- | --- | --- |
| Search-R1, verl | `{"queries": […], "topk", "return_scores"}` | `{"result": [[hit, …], …]}` |
| SkyRL | `{"query": "…", "topk", "return_scores"}` | the same, one outer element |
| rLLM | `{"query": "…", "top_k" or "k"}` | `{"results": [{"id", "content", "score"}]}` |
| gem | `{"query", "topk"}` in msgpack | `{"result": [hit, …]}` in msgpack |

A hit is `{"document": {"id", "title", "text", "contents"}, "score"}`, or the document alone
without `return_scores`. An empty query finds nothing, and an empty list is answered by one:
trainers post the queries of a whole batch each turn, whether or not anybody searches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from retrieval_index.documents import Document
from retrieval_index.encoders import without_surrogates
from retrieval_index.index import MODES, Mode

MAX_K = 1000
MAX_QUERIES = 4096
MAX_CHARS = 8000
MAX_PASSAGES = 65_536
"""Queries times passages of a request: as many are in memory at once."""
DEFAULT_K = 3
Dialect = Literal["nested", "rllm", "gem"]


class BadRequest(ValueError):
    """A request that cannot be understood; the message names the field."""


@dataclass(frozen=True, slots=True)
class Request:
    queries: list[str]
    k: int
    mode: Mode | None
    scores: bool
    dialect: Dialect


def read_request(body: bytes, content_type: str) -> Request:
    """Raises BadRequest naming the field that is wrong."""
    packed = _is_msgpack(body, content_type)
    fields = _decoded(body, packed)
    if ("queries" in fields) == ("query" in fields):
        raise BadRequest('expected "queries" (a list) or "query" (one string)')
    queries = fields["queries"] if "queries" in fields else [fields["query"]]
    dialect: Dialect = "nested"
    if packed:
        dialect = "gem"
    elif "query" in fields and "topk" not in fields and fields.keys() & {"top_k", "k"}:
        dialect = "rllm"
    if dialect != "nested" and len(queries) != 1:
        raise BadRequest('"queries": expected one query in msgpack')
    texts, k = _texts(queries), _count(fields)
    if len(texts) * k > MAX_PASSAGES:
        raise BadRequest(
            f"{len(texts)} queries with {k} passages each: expected at most {MAX_PASSAGES:,}"
            " passages a request; send several requests"
        )
    return Request(
        texts,
        k,
        _mode(fields.get("mode")),
        _flag(fields, default=dialect != "nested" or "query" in fields),
        dialect,
    )


def write_answer(request: Request, found: Sequence[Sequence[Document]]) -> tuple[bytes, str]:
    """The body of the answer, and its content type."""
    if request.dialect == "rllm":
        results = [
            {"id": each.id, "content": each.contents, "score": each.score} for each in found[0]
        ]
        return _json({"results": results})
    lists = [[_hit(document, request.scores) for document in documents] for documents in found]
    if request.dialect == "gem":
        import msgpack

        return cast(bytes, msgpack.packb({"result": lists[0]})), "application/msgpack"
    return _json({"result": lists})


def _hit(document: Document, scores: bool) -> dict[str, Any]:
    fields = {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "contents": document.contents,
    }
    fields = {name: without_surrogates(value) for name, value in fields.items()}
    return {"document": fields, "score": document.score} if scores else fields


def _json(value: object) -> tuple[bytes, str]:
    return json.dumps(value).encode("ascii"), "application/json"


def _is_msgpack(body: bytes, content_type: str) -> bool:
    """gem's client names no content type; JSON begins with a bracket or white space."""
    if "json" in content_type:
        return False
    return "msgpack" in content_type or body.lstrip()[:1] not in (b"{", b"[", b"")


def _decoded(body: bytes, packed: bool) -> dict[str, Any]:
    try:
        if packed:
            import msgpack

            value: Any = msgpack.unpackb(body)
        else:
            value = json.loads(body)
    except Exception as error:  # msgpack has many kinds
        raise BadRequest(f"the body is not {'msgpack' if packed else 'JSON'}: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest('expected an object with "queries" or "query"')
    return cast(dict[str, Any], value)


def _texts(queries: Any) -> list[str]:
    if not isinstance(queries, list):
        raise BadRequest('"queries": expected a list of strings')
    texts = cast(list[Any], queries)
    if len(texts) > MAX_QUERIES:
        raise BadRequest(f'"queries" has {len(texts)} entries: expected at most {MAX_QUERIES}')
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(f"query {number} is {text!r:.100}: expected a string")
        if len(text) > MAX_CHARS:
            raise BadRequest(f"query {number} has {len(text)} characters: at most {MAX_CHARS}")
    return texts


def _count(fields: dict[str, Any]) -> int:
    name = next((name for name in ("topk", "top_k", "k") if fields.get(name) is not None), None)
    if name is None:
        return DEFAULT_K
    value = fields[name]
    if type(value) is not int or not 1 <= value <= MAX_K:
        raise BadRequest(f'"{name}" is {value!r}: expected an integer from 1 to {MAX_K}')
    return value


def _mode(value: Any) -> Mode | None:
    if value is not None and value not in MODES:
        raise BadRequest(f'"mode" is {value!r}: expected one of {", ".join(MODES)}')
    return value


def _flag(fields: dict[str, Any], default: bool) -> bool:
    value = fields.get("return_scores")
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f'"return_scores" is {value!r}: expected true or false')
    return value
