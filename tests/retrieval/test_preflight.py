"""What a build takes is told before it begins, and refused where the machine has too little."""

import json

import numpy as np
import pytest

from retrieval_index import build_index, build_state, preflight
from retrieval_index.documents import Document
from retrieval_index.encoders import HashingEncoder
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import VECTORS_FILE
from retrieval_index.update import update_index

ROWS = 90  # of the corpus in conftest.py


def test_a_disk_too_small_is_told_with_numbers_and_can_be_resumed(corpus, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000_000})()
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"has 0.0 GB left and the index needs 0.1 GB"):
        build_index(corpus, tmp_path / "out")
    assert json.loads((tmp_path / "out" / build_state.STATE).read_text())["done"]["corpus"]
    monkeypatch.undo()
    assert len(build_index(corpus, tmp_path / "out")) == ROWS


def test_a_memory_too_small_is_told_with_numbers(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "memory_size", lambda: 20_000_000)
    with pytest.raises(MemoryError, match=r"has 0.0 GB of memory and the build needs about 0.1 GB"):
        build_index(corpus, tmp_path / "out")
    monkeypatch.undo()
    index = build_index(corpus, tmp_path / "out")
    monkeypatch.setattr(preflight, "memory_size", lambda: 20_000_000)
    with pytest.raises(MemoryError, match=r"choose an index type with smaller vectors"):
        update_index(tmp_path / "out", [Document("new", "", "zebra")])
    assert PassageIndex.open(tmp_path / "out").fingerprint == index.fingerprint


def test_a_memory_limit_of_the_container_counts(tmp_path, monkeypatch):
    whole = preflight.memory_size()
    assert whole is not None
    (tmp_path / "limit").write_text("123456789\n")
    monkeypatch.setattr(preflight, "_CGROUP_LIMIT", tmp_path / "limit")
    assert preflight.memory_size() == 123456789
    (tmp_path / "limit").write_text("max\n")
    assert preflight.memory_size() >= whole


@pytest.mark.parametrize("factory", ["IVF8,SQ8", "IVF8,Flat", "HNSW16", "PQ16x4"])
def test_the_size_told_is_the_size_that_is_written(tmp_path, factory):
    """To a tenth, once the parts that do not grow with the corpus are left out."""
    words = [f"{n:x}".translate(str.maketrans("0123456789", "ghijklmnop")) for n in range(4000)]
    rows = [
        Document(f"p{n}", "", " ".join(words[n * 37 % 4000 : n * 37 % 4000 + 20]))
        for n in range(4000)
    ]
    index = build_index(rows, tmp_path / "out", HashingEncoder(64), index=factory)
    files = {file.path: file.bytes for file in index.manifest.files}
    needs = preflight.estimate(index.generation, index.encoder, factory, False, sample=False)
    grown = files[VECTORS_FILE] + files["dense/index.faiss"]
    fixed = 4 * 64 * 300  # centroids and codebooks
    assert 0.9 * (grown - fixed) < needs.disk < 1.1 * grown
    with_words = preflight.estimate(index.generation, index.encoder, factory, True, sample=False)
    words_told = with_words.disk - needs.disk
    assert 0.5 < words_told / sum(files[name] for name in files if "bm25" in name) < 2
    assert needs.seconds is None


def test_the_time_is_that_of_a_sample_times_the_passages(tmp_path):
    class Slow:
        dimension = 8

        def encode_passages(self, texts):
            clock[0] += 0.5 * len(texts)
            return np.ones((len(texts), 8), dtype=np.float32)

    clock = [0.0]
    rows = [Document(f"p{n}", "", f"word{n}") for n in range(5000)]
    index = build_index(rows, tmp_path / "out", HashingEncoder(8), bm25=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight.time, "perf_counter", lambda: clock[0])
        needs = preflight.estimate(index.generation, Slow(), "Flat", False, sample=True)
    assert needs.seconds == pytest.approx(2500)
    assert str(needs).endswith("about 42 minutes of encoding")
