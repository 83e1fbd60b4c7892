"""BM25 and the fusion of both rankings, against what their formulas say."""

import math
import pickle
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.tasks.fiction import World
from retrieval_index import build_index
from retrieval_index.bm25 import K1, B, top_rows
from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError, IndexFileError, MissingPackageError
from retrieval_index.fusion import reciprocal_rank_fusion
from retrieval_index.index import PassageIndex


@pytest.fixture(scope="module")
def world():
    return World(400, seed=3)


@pytest.fixture(scope="module")
def index(world, tmp_path_factory):
    return build_index(world.passages, tmp_path_factory.mktemp("index") / "both")


@pytest.fixture(scope="module")
def queries(world):
    return [task.prompt for task in world.tasks("test", count=60)]


def stems(text):
    words = re.findall(r"\b\w+\b", text.lower())
    return Stemmer.Stemmer("english").stemWords(words)


def naive_bm25(texts, query):
    """Robertson's formula with Lucene's inverse document frequency, in float64."""
    documents = [Counter(stems(text)) for text in texts]
    lengths = [sum(counts.values()) for counts in documents]
    mean = sum(lengths) / len(lengths)
    scores = np.zeros(len(texts))
    for word in stems(query):
        frequency = sum(word in counts for counts in documents)
        idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for row, counts in enumerate(documents):
            saturated = counts[word] + K1 * (1 - B + B * lengths[row] / mean)
            scores[row] += idf * counts[word] / saturated
    return scores


def test_bm25_is_the_formula(index, world, queries):
    texts = [passage.contents for passage in world.passages]
    places = {passage.id: row for row, passage in enumerate(world.passages)}
    for query, found in zip(queries[:20], index.search(queries[:20], 8, "bm25")):
        scores = naive_bm25(texts, query)
        rows = [places[document.id] for document in found]
        assert [document.score for document in found] == pytest.approx(scores[rows], rel=1e-4)
        assert min(scores[rows]) >= np.sort(scores)[-8] - 1e-5


def test_words_that_no_passage_has_find_nothing(index):
    assert index.search(["qqqq zzzz", "!!"], 5, "bm25") == [[], []]
    assert len(index.search(["qqqq zzzz"], 5, "hybrid")[0]) == 5  # the dense half still answers


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), max_size=30), st.integers(1, 40))
def test_top_rows_are_those_of_a_stable_sort(scores, k):
    expected = [row for row in sorted(range(len(scores)), key=lambda r: -scores[r]) if scores[row]]
    assert top_rows(np.array(scores, dtype=np.float32), k).tolist() == expected[:k]


@given(
    st.lists(st.lists(st.integers(0, 12), unique=True, max_size=8), min_size=1, max_size=3),
    st.integers(1, 10),
)
def test_fusion_is_the_sum_of_reciprocal_ranks(rankings, k):
    expected = Counter()
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            expected[row] += 1 / (60 + rank)
    arrays = [np.array(ranking, dtype=np.int64) for ranking in rankings]
    rows, scores = reciprocal_rank_fusion(arrays, k)
    assert scores.tolist() == pytest.approx(sorted(expected.values(), reverse=True)[:k], rel=1e-6)
    assert [expected[row] for row in rows.tolist()] == pytest.approx(scores.tolist(), rel=1e-6)


def test_hybrid_fuses_what_both_find(index, queries):
    dense, lexical = (index.search(queries, 100, mode) for mode in ("dense", "bm25"))
    for number, found in enumerate(index.search(queries, 10, "hybrid")):
        shares = Counter()
        for ranking in (dense[number], lexical[number]):
            for rank, document in enumerate(ranking, start=1):
                shares[document.id] += 1 / (60 + rank)
        best = sorted(shares.values(), reverse=True)[:10]
        assert [document.score for document in found] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("mode", ["bm25", "hybrid"])
def test_batch_mates_do_not_matter(index, queries, mode):
    together = index.search(queries, 7, mode)
    assert [index.search([query], 7, mode)[0] for query in queries] == together
    assert index.search(queries[::-1], 7, mode)[::-1] == together


class Model:
    """Stands for a neural encoder."""

    name, dimension, fingerprint = "model", 8, "m"

    def encode_passages(self, texts):
        return np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]

    encode_queries = encode_passages


def test_the_default_is_what_finds_most(index, queries, world, tmp_path):
    """Hashed words add nothing to BM25 (docs/indexes); a model does."""
    assert index.mode == "bm25"
    assert index.search(queries[:3]) == index.search(queries[:3], mode="bm25")
    assert build_index(world.passages[:20], tmp_path / "both", Model()).mode == "hybrid"
    lexical = PassageIndex.open(index.generation.parent, mode="bm25")
    assert lexical.search(queries[:3]) == index.search(queries[:3], mode="bm25")
    assert pickle.loads(pickle.dumps(lexical)).mode == "bm25"
    dense = build_index(world.passages[:20], tmp_path / "dense", bm25=False)
    assert dense.mode == "dense"
    with pytest.raises(ValueError, match=r"mode='bm25': .* was built without BM25"):
        dense.search(["x"], mode="bm25")
    with pytest.raises(ValueError, match="mode='best': expected one of dense, bm25, hybrid"):
        index.search(["x"], mode="best")


def test_words_change_the_fingerprint(tmp_path):
    passages = [Document("a", "", "some text")]
    both = build_index(passages, tmp_path / "both")
    assert both.fingerprint != build_index(passages, tmp_path / "one", bm25=False).fingerprint


@pytest.mark.parametrize("name", ["data.csc.index.npy", "vocab.index.json", "params.index.json"])
def test_a_damaged_file_is_named(index, tmp_path, name):
    broken = shutil.copytree(index.generation.parent, tmp_path / "copy")
    path = broken / "gen-000001/bm25" / name
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(IndexFileError, match="damaged"):
        PassageIndex.open(broken)


def test_a_missing_package_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("retrieval_index.bm25.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'BM25 search needs bm25s: pip install "ovd'):
        build_index([Document("a", "", "some text")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lone_surrogates_and_one_letter_texts(tmp_path):
    passages = [Document("a", "", "caf\ud800 x"), Document("b", "", "ü")]
    index = build_index(passages, tmp_path / "odd")
    assert next(d.id for d in index.search(["caf\ud800"], 2)[0]) == "a"


def test_one_letter_is_a_word_and_a_corpus_without_any_is_refused(tmp_path):
    passages = [Document("a", "", "x"), Document("b", "", "y 7")]
    index = build_index(passages, tmp_path / "letters")
    assert [d.id for d in index.search(["7"], 2, "bm25")[0]] == ["b"]
    with pytest.raises(CorpusError, match=r"no passage has a word in it.*--no-bm25"):
        build_index([Document("a", "", "?!")], tmp_path / "marks")
    assert len(build_index([Document("a", "", "?!")], tmp_path / "marks", bm25=False)) == 1
