"""An index in Qdrant, for corpora that one machine does not hold: export, and the same `search`.

A collection is named by a URL: qdrant://host[:port]/collection.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from retrieval_index.documents import Document
from retrieval_index.encoders import Encoder, HashingEncoder, make_encoder
from retrieval_index.errors import (
    EncoderError,
    IndexExistsError,
    IndexFileError,
    MissingPackageError,
    RetrievalError,
)
from retrieval_index.index import PassageIndex, check_request
from retrieval_index.progress import progress_bar

SCHEME = "qdrant://"
_PORT = 6333
_BATCH = 256


class QdrantIndex:
    """A `SearchEngine` over a collection that `export` made: dense, by Qdrant's own index."""

    def __init__(self, client: Any, collection: str, encoder: Encoder | None = None) -> None:
        """Raises IndexFileError where there is no such collection, and EncoderError where
        `encoder` is not the one it was made with. A hashing encoder must be given: it lies in the
        folder that was exported."""
        self._client, self._collection = client, collection
        self.about = _about(client, collection)
        if self.about is None:
            raise IndexFileError(
                f"Qdrant holds no index {collection!r}; make one: python scripts/build_index.py"
                f" --to {SCHEME}HOST/{collection}"
            )
        self.encoder = _encoder(self.about, collection, encoder)

    @classmethod
    def open(cls, url: str, encoder: Encoder | None = None) -> QdrantIndex:
        """The collection at qdrant://host[:port]/collection."""
        client, collection = connect(url)
        return cls(client, collection, encoder)

    def __len__(self) -> int:
        return _reached(lambda: self._client.count(self._collection).count)

    @property
    def fingerprint(self) -> str:
        return self.about["index_fingerprint"]

    def search(self, queries: Sequence[str], k: int = 5) -> list[list[Document]]:
        """The `k` best passages for each query, best first, in one request."""
        check_request(queries, k)
        if not queries:
            return []
        models = importlib.import_module("qdrant_client.models")
        vectors = self.encoder.encode_queries(queries).tolist()
        asked = [
            models.QueryRequest(query=vector, limit=k, with_payload=True) for vector in vectors
        ]
        answers = _reached(lambda: self._client.query_batch_points(self._collection, asked))
        return [[_document(point) for point in answer.points] for answer in answers]


def export(
    index: PassageIndex, client: Any, collection: str, progress: bool | None = None
) -> QdrantIndex:
    """Copy passages and vectors of an index into a collection; one that was broken off goes on.

    Raises IndexExistsError where the collection holds something else.
    """
    models = importlib.import_module("qdrant_client.models")
    about, wanted = _about(client, collection), _metadata(index)
    if about is None:
        shape = models.VectorParams(
            size=index.encoder.dimension, distance=models.Distance.COSINE, on_disk=True
        )
        _reached(
            lambda: client.create_collection(collection, vectors_config=shape, metadata=wanted)
        )
    elif about != wanted:
        raise IndexExistsError(
            f"Qdrant's collection {collection!r} holds something else; choose another name, or"
            " delete it first"
        )
    # Points are written in the order of rows, so as many as there are, are the first ones.
    done = _reached(lambda: client.count(collection).count)
    with progress_bar("exporting", len(index), progress, done) as advance:
        for start in range(done, len(index), _BATCH):
            rows = range(start, min(start + _BATCH, len(index)))
            points = [
                models.PointStruct(
                    id=row, vector=index.vectors[row].tolist(), payload=_payload(index, row)
                )
                for row in rows
            ]
            _reached(partial(client.upsert, collection, points, wait=True))
            advance(len(rows))
    return QdrantIndex(client, collection, index.encoder)


def connect(url: str) -> tuple[Any, str]:
    """A client, and the name of the collection. Raises RetrievalError for a URL of another form."""
    if importlib.util.find_spec("qdrant_client") is None:
        raise MissingPackageError("qdrant-client", f"the index {url}", "qdrant")
    parts = urlsplit(url)
    collection = parts.path.strip("/")
    if parts.scheme != "qdrant" or not parts.hostname or not collection or "/" in collection:
        raise RetrievalError(f"{url!r}: expected {SCHEME}HOST[:PORT]/COLLECTION")
    qdrant = importlib.import_module("qdrant_client")
    # The check of versions would warn before the first request fails in a sentence of its own.
    client = qdrant.QdrantClient(
        host=parts.hostname, port=parts.port or _PORT, check_compatibility=False
    )
    return client, collection


def _metadata(index: PassageIndex) -> dict[str, Any]:
    encoder = index.manifest.encoder
    return {
        "index_fingerprint": index.fingerprint,
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
    }


def _payload(index: PassageIndex, row: int) -> dict[str, str]:
    passage = index.passages[row]
    return {"id": passage.id, "title": passage.title, "text": passage.text}


def _about(client: Any, collection: str) -> Any:
    """What `_metadata` said when the collection was made; None where there is none."""
    if not _reached(lambda: client.collection_exists(collection)):
        return None
    return _reached(lambda: client.get_collection(collection)).config.metadata or {}


def _encoder(about: dict[str, Any], collection: str, given: Encoder | None) -> Encoder:
    name = about.get("encoder")
    if name is None:
        raise IndexFileError(f"Qdrant's collection {collection!r} was not made by build_index.py")
    if given is None and name == HashingEncoder.name:
        raise EncoderError(
            f"collection {collection!r} was made with the hashing encoder, which lies in the index"
            " folder: pass encoder=PassageIndex.open(FOLDER).encoder"
        )
    encoder = given or make_encoder(name)
    if encoder.fingerprint != about["encoder_fingerprint"]:
        raise EncoderError(
            f"collection {collection!r} was made with encoder {name!r}, and this is another one"
            f" ({encoder.name!r})"
        )
    return encoder


def _reached(call: Any) -> Any:
    from httpx import HTTPError

    try:
        return call()
    except (HTTPError, importlib.import_module("qdrant_client.http.exceptions").ApiException) as e:
        raise RetrievalError(f"Qdrant does not answer ({str(e).strip().splitlines()[0]})") from e


def _document(point: Any) -> Document:
    payload = point.payload
    return Document(payload["id"], payload["title"], payload["text"], point.score)
