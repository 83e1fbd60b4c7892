"""Adding and deleting: the same as a new build with the same encoder, and safe to kill."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import killed_while

from retrieval_index import PassageIndex, build_index, build_state, stages, update_index
from retrieval_index.documents import Document
from retrieval_index.encoders import HashingEncoder
from retrieval_index.errors import CorpusError, IndexExistsError, IndexFileError

PASSAGES = [Document(f"p{n}", f"T{n}", f"word{n % 7} text number {n}") for n in range(40)]
QUERIES = ["word3 text", "number 12", "T5", "word6 number 33"]


def new(number):
    return Document(f"n{number}", f"N{number}", f"word{number % 7} new text {number}")


def same_results(index, other):
    for mode in ("dense", "bm25", "hybrid"):
        assert index.search(QUERIES, 8, mode) == other.search(QUERIES, 8, mode)


@settings(max_examples=6, deadline=None)
@given(
    deleted=st.sets(st.integers(0, 39), max_size=40),
    added=st.lists(st.integers(0, 9), unique=True, max_size=6),
)
def test_it_equals_a_new_build_with_the_same_encoder(tmp_path_factory, deleted, added):
    if len(deleted) == 40 and not added:
        return  # an empty index is refused, see below
    folder = tmp_path_factory.mktemp("update")
    before = build_index(PASSAGES, folder / "edited")
    index = update_index(folder / "edited", map(new, added), [f"p{n}" for n in deleted])
    left = [passage for n, passage in enumerate(PASSAGES) if n not in deleted]
    fresh = build_index([*left, *map(new, added)], folder / "fresh", bm25=True)
    again = HashingEncoder(512, before.encoder.document_frequency)
    assert list(index.passages) == list(fresh.passages)
    expected = again.encode_passages([passage.contents for passage in fresh.passages])
    np.testing.assert_array_equal(index.vectors, expected)
    assert index.search(QUERIES, 5, "bm25") == fresh.search(QUERIES, 5, "bm25")
    assert PassageIndex.open(folder / "edited", verify=True).fingerprint == index.fingerprint


def test_only_what_is_new_is_encoded(tmp_path, monkeypatch):
    build_index(PASSAGES, tmp_path / "i")
    encoded = []
    encode = HashingEncoder.encode_passages
    monkeypatch.setattr(
        HashingEncoder,
        "encode_passages",
        lambda self, texts: encoded.extend(texts) or encode(self, texts),
    )
    index = update_index(tmp_path / "i", [new(1), new(2)], ["p3"])
    assert encoded == [new(1).contents, new(2).contents]
    assert len(index) == 41
    with pytest.raises(KeyError, match="no passage has the id 'p3'"):
        index.get(["p3"])


def test_an_id_deleted_and_added_is_replaced(tmp_path):
    build_index(PASSAGES, tmp_path / "i")
    index = update_index(tmp_path / "i", [Document("p3", "", "zebra")], ["p3"])
    assert index.get(["p3"])[0].text == "zebra"
    assert index.search(["zebra"], 1, "bm25")[0][0].id == "p3"


def test_an_approximate_index_stays_one(tmp_path):
    build_index(PASSAGES, tmp_path / "i", index="IVF4,Flat", bm25=False)
    index = update_index(tmp_path / "i", [new(1)])
    assert index.manifest.dense.factory == "IVF4,Flat"
    assert index.manifest.dense.rows == 41
    assert index.search(["N1 new text"], 1)[0][0].id == "n1"


def test_readers_keep_their_generation_and_old_ones_are_removed(tmp_path):
    reader = build_index(PASSAGES, tmp_path / "i")
    expected = reader.search(QUERIES, 5)
    for number in range(3):
        update_index(tmp_path / "i", [new(number)])
        assert reader.search(QUERIES, 5) == expected
    names = sorted(path.name for path in (tmp_path / "i").iterdir())
    assert names == ["CURRENT", "gen-000003", "gen-000004"]
    assert len(PassageIndex.open(tmp_path / "i")) == 43


def test_what_cannot_be_is_one_sentence_and_changes_nothing(tmp_path):
    with pytest.raises(IndexFileError, match="holds no index; make one"):
        update_index(tmp_path / "none", [new(1)])
    before = build_index(PASSAGES, tmp_path / "i")
    with pytest.raises(KeyError, match="no passage has the id 'other'"):
        update_index(tmp_path / "i", delete=["p1", "other"])
    with pytest.raises(CorpusError, match="have the same id 'p1'"):
        update_index(tmp_path / "i", [PASSAGES[1]])
    with pytest.raises(CorpusError, match="the corpus is empty"):
        update_index(tmp_path / "i", delete=[passage.id for passage in PASSAGES])
    assert PassageIndex.open(tmp_path / "i", verify=True).generation == before.generation
    assert sorted(p.name for p in (tmp_path / "i").iterdir()) == ["CURRENT", "gen-000001"]


@pytest.mark.parametrize(
    "moments", [range(3, 200, 9), pytest.param(range(1, 200), marks=pytest.mark.faults)]
)
def test_killed_at_any_moment_it_ends_the_same(tmp_path, monkeypatch, moments):
    monkeypatch.setattr(stages, "BATCH", 5)
    monkeypatch.setattr(stages, "_SHARD", 5)
    lines = [{"id": f"n{n}", "text": f"word{n} new"} for n in range(12)]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def update(out):
        return update_index(out, tmp_path / "new.jsonl", ["p3", "p4"])

    build_index(PASSAGES, tmp_path / "whole")
    expected = update(tmp_path / "whole")
    for moment in moments:
        out = tmp_path / f"out{moment}"
        build_index(PASSAGES, out)
        if not killed_while(lambda out=out: update(out), moment):
            break
        index = PassageIndex.open(out, verify=True)
        assert len(index) in (40, 50)  # before or after
        if len(index) == 40 or (out / build_state.STATE).exists():
            index = update(out)
            # One killed after its last step may leave a lock, which is free.
            assert not list(out.glob("building*"))
        assert index.fingerprint == expected.fingerprint
        same_results(index, expected)
    assert moment > 20


def test_another_change_is_refused_while_one_is_unfinished(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_SHARD", 1)
    (tmp_path / "new.jsonl").write_text('{"id": "n", "text": "x"}')
    build_index(PASSAGES, tmp_path / "i")
    assert killed_while(lambda: update_index(tmp_path / "i", tmp_path / "new.jsonl"), 14)
    with pytest.raises(IndexExistsError, match="unfinished build with deleted_sha256"):
        update_index(tmp_path / "i", tmp_path / "new.jsonl", ["p1"])
    index = update_index(tmp_path / "i", tmp_path / "new.jsonl", ["p1"], restart=True)
    assert len(index) == 40
