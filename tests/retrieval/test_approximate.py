"""Approximate indexes: candidates re-scored, tuned against exact search, never padding."""

import shutil

import numpy as np
import pytest

from ovd_envs.tasks.fiction import World
from retrieval_index import build_index
from retrieval_index.approximate import FLAT_ROWS, Approximate, choose_factory
from retrieval_index.documents import Document
from retrieval_index.errors import IndexExistsError, IndexFileError, RetrievalError
from retrieval_index.flat import search_blocks, search_flat
from retrieval_index.index import PassageIndex

FACTORIES = ("IVF16,SQ8", "IVF16,Flat", "HNSW16", "PQ16x4fs", "SQ8")


@pytest.fixture(scope="module")
def world():
    return World(3000, seed=5)


@pytest.fixture(scope="module")
def exact(world, tmp_path_factory):
    return build_index(world.passages, tmp_path_factory.mktemp("exact") / "i", bm25=False)


@pytest.fixture(scope="module", params=FACTORIES)
def index(request, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("approximate") / "i"
    return build_index(world.passages, folder, index=request.param, bm25=False)


@pytest.fixture(scope="module")
def queries(world):
    tasks = world.tasks("test", count=150)
    return [link["query"] for task in tasks for link in task.metadata["chain"]]


def test_it_is_tuned_and_finds_nearly_what_exact_search_finds(index, exact, queries):
    dense = index.manifest.dense
    assert dense.recall >= 0.95
    assert dense.queries == 500
    found = index.search(queries, 10)
    best = exact.search(queries, 10)
    shared = [len({d.id for d in one} & {d.id for d in other}) for one, other in zip(found, best)]
    assert np.mean(shared) >= 9.0  # tuned on other queries than these


def test_scores_are_the_exact_ones_in_order(index, exact, queries):
    scores = {d.id: d.score for d in exact.search(queries[:1], len(exact))[0]}
    found = index.search(queries[:1], 20)[0]
    assert [d.score for d in found] == [scores[d.id] for d in found]
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


def test_batch_mates_do_not_matter(index, queries):
    together = index.search(queries[:40], 5)
    assert [index.search([query], 5)[0] for query in queries[:40]] == together


def test_more_than_there_is_gives_all_that_was_found_and_no_padding(world, tmp_path):
    passages = list(world.passages[:40])
    index = build_index(passages, tmp_path / "i", index="IVF4,SQ8", bm25=False)
    found = index.search([passages[3].title], 1000)[0]
    ids = [document.id for document in found]
    assert 0 < len(ids) <= 40
    assert len(set(ids)) == len(ids)


def test_it_opens_again_as_it_was_built(index, queries):
    again = PassageIndex.open(index.generation.parent, verify=True)
    assert again.search(queries[:20], 5) == index.search(queries[:20], 5)
    with pytest.raises(IndexExistsError, match="already holds a different index"):
        build_index([Document("a", "", "x")], index.generation.parent, bm25=False)


def test_auto_is_exact_up_to_a_million_and_says_why():
    assert choose_factory(FLAT_ROWS) == (
        "Flat",
        "1,000,000 passages: every vector is compared, which is exact",
    )
    factory, reason = choose_factory(FLAT_ROWS + 1)
    assert factory == "IVF16384_HNSW32,SQ8"
    assert "1,000,001 passages" in reason
    assert choose_factory(21_015_324)[0].startswith("IVF65536")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF9999,Flat", "an index of 9,999 lists needs at least as many passages"),
        ("IVF0,Flat", "index='IVF0,Flat': faiss knows no such index"),
        ("IDMap,Flat", "index='IDMap,Flat': faiss knows no such index"),
        ("Nonsense", "index='Nonsense': faiss knows no such index for 512 dimensions"),
    ],
)
def test_a_type_that_cannot_be_is_one_sentence(world, tmp_path, factory, message):
    with pytest.raises(RetrievalError, match=message):
        build_index(world.passages[:50], tmp_path / "out", index=factory, bm25=False)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_named(index, tmp_path):
    broken = shutil.copytree(index.generation.parent, tmp_path / "copy")
    path = broken / "gen-000001/dense/index.faiss"
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(IndexFileError, match=r"index\.faiss is damaged"):
        PassageIndex.open(broken)
    with pytest.raises(IndexFileError, match="expected 7; delete"):
        Approximate(index.generation / "dense/index.faiss", 7)


@pytest.mark.parametrize("count", [1, 5, 70_000])
def test_searching_by_blocks_finds_the_same_rows(count, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.standard_normal((count, 8)).astype(np.float32))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    queries = rng.standard_normal((6, 8)).astype(np.float32)
    k = min(7, count)
    found = search_blocks(queries, vectors, k)
    expected = search_flat(queries, vectors, k)[1]
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(expected, 1))
    assert float(vectors[0, 0]) == np.load(tmp_path / "v.npy")[0, 0]  # what is forgotten is read
