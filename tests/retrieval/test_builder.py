import json

import numpy as np
import pytest

from retrieval_index import build_index, builder, stages
from retrieval_index.documents import Document
from retrieval_index.errors import (
    CorpusError,
    EncoderError,
    IndexExistsError,
)
from retrieval_index.index import PassageIndex

BM25_FILES = (
    *("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"),
    *("params.index.json", "vocab.index.json"),
)
PASSAGES = [Document(f"p{i}", f"Title {i}", f"text of passage number {i}") for i in range(30)]


def test_the_layout_and_the_manifest(tmp_path):
    index = build_index(PASSAGES, tmp_path / "out")
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "gen-000001/manifest.json",
        "gen-000001/corpus/part-00000.jsonl",
        "gen-000001/corpus/part-00000.offsets.npy",
        "gen-000001/ids.npy",
        "gen-000001/vectors/part-00000.f32.npy",
        "gen-000001/encoder/document_frequency.npy",
        *(f"gen-000001/bm25/{name}" for name in BM25_FILES),
    }
    assert (tmp_path / "out/CURRENT").read_text() == "gen-000001\n"
    manifest = json.loads((tmp_path / "out/gen-000001/manifest.json").read_text())
    assert manifest["corpus"]["rows"] == manifest["dense"]["rows"] == 30
    assert manifest["encoder"]["name"] == "hashing"
    assert {record["path"] for record in manifest["files"]} == {
        name.removeprefix("gen-000001/") for name in files if "manifest" not in name
    }
    assert manifest["index_fingerprint"] == index.fingerprint


def test_the_fingerprint_is_of_the_content(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in PASSAGES)
    )
    first = build_index(PASSAGES, tmp_path / "a")
    assert build_index(corpus, tmp_path / "b").fingerprint == first.fingerprint
    assert build_index(PASSAGES[:-1], tmp_path / "c").fingerprint != first.fingerprint


def test_batches_do_not_change_the_vectors(tmp_path, monkeypatch):
    whole = build_index(PASSAGES, tmp_path / "a")
    monkeypatch.setattr(stages, "BATCH", 7)
    pieces = build_index(PASSAGES, tmp_path / "b")
    name = "vectors/part-00000.f32.npy"
    assert (whole.generation / name).read_bytes() == (pieces.generation / name).read_bytes()


def test_the_same_index_is_opened_and_a_different_one_refused(tmp_path, monkeypatch):
    first = build_index(PASSAGES, tmp_path / "out")
    with pytest.raises(IndexExistsError, match=r"already holds a different index \(30 passages"):
        build_index(PASSAGES[:5], tmp_path / "out")
    monkeypatch.setattr(builder, "encode", lambda *_: pytest.fail("built again"))
    again = build_index(PASSAGES, tmp_path / "out")
    assert again.generation == first.generation
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == ["gen-000001"]


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(IndexExistsError, match=r"holds other files \('thesis.tex'\)"):
        build_index(PASSAGES, tmp_path)
    with pytest.raises(IndexExistsError, match="is a file; expected a folder"):
        build_index(PASSAGES, tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_stopped_build_of_a_list_leaves_nothing(tmp_path, monkeypatch, error):
    def stop(*_):
        raise error

    monkeypatch.setattr(stages, "_check_vectors", stop)
    with pytest.raises(error):
        build_index(PASSAGES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_generation_that_never_went_live_does_not_block_the_next(tmp_path):
    build_index(PASSAGES, tmp_path / "out")
    (tmp_path / "out/CURRENT").unlink()
    index = build_index(PASSAGES[:5], tmp_path / "out")
    assert (index.generation.name, len(index)) == ("gen-000002", 5)
    assert len(PassageIndex.open(tmp_path / "out")) == 5


def test_a_bad_corpus_leaves_nothing(tmp_path):
    (tmp_path / "c.jsonl").write_text("{}")
    with pytest.raises(CorpusError, match=r"c\.jsonl, line 1"):
        build_index(tmp_path / "c.jsonl", tmp_path / "out")
    with pytest.raises(CorpusError, match="corpus is empty"):
        build_index([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


class FixedEncoder:
    name, dimension, fingerprint = "fixed", 2, "f"

    def __init__(self, row):
        self.row = row

    def encode_passages(self, texts):
        vectors = np.tile(np.array([1, 0], dtype=np.float32), (len(texts), 1))
        if len(self.row) != 2:
            return np.ones((len(texts), len(self.row)), dtype=np.float32)
        vectors[3] = self.row
        return vectors

    encode_queries = encode_passages


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0], "gave passage 'p3' a vector that is not of length 1"),
        ([float("nan"), 1], "gave passage 'p3' a vector that is not of length 1"),
        ([3, 4], "gave passage 'p3' a vector that is not of length 1"),
        ([1, 1, 1], r"vectors of shape \(30, 3\): expected \(30, 2\)"),
    ],
)
def test_an_encoder_that_breaks_its_word_is_named(tmp_path, row, message):
    with pytest.raises(EncoderError, match=f"encoder 'fixed' gave {message.removeprefix('gave ')}"):
        build_index(PASSAGES, tmp_path / "out", FixedEncoder(row))


def test_progress_is_shown_when_asked(tmp_path, capsys):
    build_index(PASSAGES, tmp_path / "a", progress=True)
    assert "encoding" in capsys.readouterr().err
    build_index(PASSAGES, tmp_path / "b")
    assert capsys.readouterr().err == ""
