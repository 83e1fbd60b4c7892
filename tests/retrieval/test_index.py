import copy
import json
import pickle
import random
import shutil
import sys

import faiss
import numpy as np
import pytest

from ovd_envs.search.base import SearchEngine
from ovd_envs.tasks.fiction import World
from retrieval_index import build_index, flat
from retrieval_index.documents import Document
from retrieval_index.encoders import HashingEncoder
from retrieval_index.errors import EncoderError, IndexFileError
from retrieval_index.index import PassageIndex


class VectorEncoder:
    """Texts that are themselves vectors: "0.6 0.8"."""

    name, dimension, fingerprint = "vectors", 2, "v1"

    def encode_passages(self, texts):
        return np.array([[float(x) for x in text.split()] for text in texts], dtype=np.float32)

    encode_queries = encode_passages


@pytest.fixture(scope="module")
def world():
    return World(600, seed=1)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "fiction"
    build_index(world.passages, path, bm25=False)
    return path


@pytest.fixture(scope="module")
def index(folder):
    return PassageIndex.open(folder, verify=True)


@pytest.fixture(scope="module")
def queries(world):
    return [
        link["query"] for task in world.tasks("test", count=100) for link in task.metadata["chain"]
    ]


def pairs(found):
    return [[(document.id, document.score) for document in hits] for hits in found]


def test_it_is_a_search_engine_that_finds_gold_passages(index, world):
    assert isinstance(index, SearchEngine)
    links = [link for task in world.tasks("test", count=100) for link in task.metadata["chain"]]
    found = index.search([link["query"] for link in links], 3)
    hits = [
        link["passage"] in {d.id for d in docs} for link, docs in zip(links, found, strict=True)
    ]
    assert np.mean(hits) > 0.95
    passage = next(p for p in world.passages if p.id == found[0][0].id)
    assert (found[0][0].title, found[0][0].text) == (passage.title, passage.text)


def test_results_equal_exact_search_in_float64(index, world, queries):
    vectors = index.encoder.encode_passages([p.contents for p in world.passages])
    scores = index.encoder.encode_queries(queries).astype(np.float64) @ vectors.T.astype(np.float64)
    found = index.search(queries, 10)
    for row, hits in zip(scores, found, strict=True):
        best = np.sort(row)[::-1][:10]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-6)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_results_do_not_depend_on_batch_size_or_batch_mates(index, queries):
    queries = list(dict.fromkeys(queries))
    together = pairs(index.search(queries, 5))
    alone = [pairs(index.search([query], 5))[0] for query in queries]
    assert together == alone
    order = random.Random(0).sample(range(len(queries)), len(queries))
    mixed = pairs(index.search([queries[i] for i in order], 5))
    assert [mixed[order.index(i)] for i in range(len(queries))] == together
    assert pairs(index.search([queries[0], "x", queries[0]], 5))[2] == together[0]
    assert [hits[:2] for hits in together] == pairs(index.search(queries, 2))


def test_the_blas_threshold_changes_no_result(index, queries, monkeypatch):
    ours = index.search(queries[:40], 5)
    assert faiss.cvar.distance_compute_blas_threshold == 4 * 512
    monkeypatch.setattr(flat, "set_blas_threshold", lambda *_: None)
    faiss.cvar.distance_compute_blas_threshold = 128_000
    assert index.search(queries[:40], 5) == ours


def test_without_faiss_numpy_finds_the_same(index, queries, monkeypatch):
    with_faiss = index.search(queries, 10)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(flat, "_BLOCK_ROWS", 300)  # several blocks, and a short last one
    assert not flat.has_faiss()
    assert index.search(queries, 10) == with_faiss


def test_pickled_and_copied_it_is_the_same_index(index, queries):
    assert copy.deepcopy(index) is index
    assert pickle.loads(pickle.dumps(index)).search(queries[:3]) == index.search(queries[:3])
    assert len(pickle.dumps(index)) < 1000


def test_ties_go_to_the_earlier_row_however_many_there_are(tmp_path):
    passages = [Document(f"other{i}", "", "0 1") for i in range(5)]
    passages += [Document(f"same{i}", "", "1 0") for i in range(100)]
    index = build_index(passages, tmp_path / "ties", VectorEncoder(), bm25=False)
    for batch in (["1 0"], ["1 0", "0 1", "0.6 0.8", "0.8 0.6", "-1 0"]):
        assert [d.id for d in index.search(batch, 7)[0]] == [f"same{i}" for i in range(7)]


def test_fewer_hits_than_k_are_not_padded(tmp_path):
    index = build_index(
        [Document("a", "", "1 0"), Document("b", "", "0 1")],
        tmp_path / "i",
        VectorEncoder(),
        bm25=False,
    )
    assert pairs(index.search(["1 0"], 50)) == [[("a", 1.0), ("b", 0.0)]]
    assert index.search([], 5) == []


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (["x"], 0, "k=0: expected at least 1"),
        (["x"], -3, "k=-3"),
        (["x", " \n"], 5, "query 1 is empty"),
        ([""], 5, "query 0 is empty"),
        ("x", 5, "expected a list of strings"),
    ],
)
def test_a_bad_request_is_one_clear_sentence(index, queries, k, message):
    with pytest.raises(ValueError, match=message):
        index.search(queries, k)


def test_passages_by_id(index, world):
    wanted = [world.passages[i].id for i in (5, 0, 599)]
    assert [p.text for p in index.get(wanted)] == [world.passages[i].text for i in (5, 0, 599)]
    with pytest.raises(KeyError, match="no passage has the id 'nobody'"):
        index.get(["nobody"])


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    index = build_index([Document("a", "", "1 0")], tmp_path / "i", VectorEncoder(), bm25=False)
    with pytest.raises(EncoderError, match="not finite"):
        index.search(["nan 0"], 1)


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


FILES = (
    "corpus/part-00000.jsonl",
    "corpus/part-00000.offsets.npy",
    "ids.npy",
    "vectors/part-00000.f32.npy",
    "encoder/document_frequency.npy",
)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    broken = copy_of(folder, tmp_path)
    (broken / "gen-000001" / name).unlink()
    with pytest.raises(IndexFileError, match=f"{name} is missing; delete the index folder"):
        PassageIndex.open(broken)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_named_at_once_and_a_changed_one_by_verify(folder, tmp_path, name):
    broken = copy_of(folder, tmp_path)
    path = broken / "gen-000001" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IndexFileError, match=f"{name} has .* bytes, expected"):
        PassageIndex.open(broken)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexFileError, match=f"{name} is damaged"):
        PassageIndex.open(broken, verify=True)
    path.write_bytes(b"\x00" * 128 + content[128:])  # same size, senseless head
    if name != "corpus/part-00000.jsonl":
        with pytest.raises(IndexFileError, match="damaged"):
            PassageIndex.open(broken)


def edit_manifest(folder, change):
    path = folder / "gen-000001" / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema_version=2), "newer version .*upgrade ovd"),
        (lambda data: data.pop("dense"), r"manifest.json is damaged \(KeyError"),
        (lambda data: data["encoder"].update(dimension=256), "does not match its own fingerprint"),
        (lambda data: data.update(schema_version="x"), "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(folder, tmp_path, change, message):
    broken = copy_of(folder, tmp_path)
    edit_manifest(broken, change)
    with pytest.raises(IndexFileError, match=message):
        PassageIndex.open(broken)


def test_files_of_different_indexes_are_refused(tmp_path):
    one = build_index([Document("a", "", "1 0")], tmp_path / "one", VectorEncoder(), bm25=False)
    two = build_index(
        [Document("a", "", "1 0"), Document("b", "", "0 1")],
        tmp_path / "two",
        VectorEncoder(),
        bm25=False,
    )
    name = "vectors/part-00000.f32.npy"
    (one.generation / name).write_bytes((two.generation / name).read_bytes())
    with pytest.raises(IndexFileError, match="disagree on the number or size of vectors"):
        PassageIndex(one.generation, one.manifest, VectorEncoder())


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(
        IndexFileError, match=r"holds no index; make one: python scripts/build_index"
    ):
        PassageIndex.open(tmp_path / "none")
    (tmp_path / "CURRENT").write_text("gen-000009")
    with pytest.raises(IndexFileError, match="CURRENT names no generation"):
        PassageIndex.open(tmp_path)


def test_an_index_is_searched_only_with_its_own_encoder(folder, tmp_path):
    with pytest.raises(EncoderError, match=r"built with encoder 'hashing' \(512 dimensions"):
        PassageIndex.open(folder, encoder=VectorEncoder())
    with pytest.raises(EncoderError, match="use that encoder or build again"):
        PassageIndex.open(folder, encoder=HashingEncoder())
