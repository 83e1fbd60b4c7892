"""Export to Qdrant, in its local mode: the same passages, and what cannot be is one sentence."""

import pytest

from ovd_envs.search.base import SearchEngine
from ovd_envs.tasks.fiction import World
from retrieval_index import build_index, qdrant
from retrieval_index.encoders import HashingEncoder
from retrieval_index.errors import (
    EncoderError,
    IndexExistsError,
    IndexFileError,
    MissingPackageError,
    RetrievalError,
)
from retrieval_index.qdrant import QdrantIndex, connect, export

qdrant_client = pytest.importorskip("qdrant_client", reason='pip install -e ".[qdrant]"')


@pytest.fixture(scope="module")
def world():
    return World(1000, seed=2)


@pytest.fixture(scope="module")
def index(world, tmp_path_factory):
    return build_index(world.passages, tmp_path_factory.mktemp("q") / "i", bm25=False)


@pytest.fixture
def client():
    return qdrant_client.QdrantClient(":memory:")


def test_it_finds_what_the_index_finds(world, index, client):
    served = export(index, client, "fiction")
    queries = [
        link["query"] for task in world.tasks("test", count=20) for link in task.metadata["chain"]
    ]
    assert isinstance(served, SearchEngine)
    assert len(served) == len(index)
    assert served.fingerprint == index.fingerprint
    for one, other in zip(served.search(queries, 5), index.search(queries, 5), strict=True):
        assert [d.score for d in one] == pytest.approx([d.score for d in other], abs=1e-5)
        gap = other[0].score - other[1].score
        assert one[0].text == other[0].text or gap < 1e-5
    assert served.search([]) == []
    with pytest.raises(ValueError, match="expected a list of strings"):
        served.search("one string")


def test_an_export_that_was_broken_off_goes_on(index, client, monkeypatch):
    whole, calls = client.upsert, []

    def upsert(collection, points, wait):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(points))
        return whole(collection, points, wait=wait)

    monkeypatch.setattr(client, "upsert", upsert)
    with pytest.raises(KeyboardInterrupt):
        export(index, client, "fiction")
    monkeypatch.setattr(client, "upsert", lambda c, p, wait: calls.append(len(p)) or whole(c, p))
    assert len(export(index, client, "fiction")) == len(index)
    assert sum(calls) == len(index)


def test_another_index_of_the_name_is_not_overwritten(world, index, client, tmp_path):
    export(index, client, "fiction")
    other = build_index(world.passages[:20], tmp_path / "other", bm25=False)
    with pytest.raises(IndexExistsError, match="'fiction' holds something else"):
        export(other, client, "fiction")


def test_the_encoder_must_be_the_right_one(index, client):
    export(index, client, "fiction")
    with pytest.raises(EncoderError, match=r"pass encoder=PassageIndex\.open"):
        QdrantIndex(client, "fiction")
    with pytest.raises(EncoderError, match="this is another one"):
        QdrantIndex(client, "fiction", HashingEncoder(64))
    assert len(QdrantIndex(client, "fiction", index.encoder)) == len(index)
    with pytest.raises(IndexFileError, match="holds no index 'none'"):
        QdrantIndex(client, "none")


def test_urls_and_servers_that_are_not_there_are_one_sentence(monkeypatch):
    for url in ("qdrant://host", "http://host/name", "qdrant:///name", "qdrant://host/a/b"):
        with pytest.raises(RetrievalError, match="expected qdrant://HOST"):
            connect(url)
    with pytest.raises(RetrievalError, match="Qdrant does not answer"):
        QdrantIndex.open("qdrant://127.0.0.1:1/name")
    monkeypatch.setattr(qdrant.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"needs qdrant-client: pip install"):
        connect("qdrant://host/name")
