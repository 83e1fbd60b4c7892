"""Reranking: the order is the model's, ties keep the first order, one call for all pairs."""

import numpy as np
import pytest

from retrieval_index import build_index
from retrieval_index.documents import Document
from retrieval_index.errors import EncoderError
from retrieval_index.rerank import Reranked

PASSAGES = [Document(f"p{n}", f"T{n}", "same words " + "long " * n) for n in range(30)]


class Longest:
    """Prefers long passages; counts its calls."""

    def __init__(self):
        self.calls = []

    def predict(self, pairs, **_):
        self.calls.append(len(pairs))
        return np.array([len(text.split()) // 4 for _, text in pairs], dtype=np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(PASSAGES, tmp_path_factory.mktemp("r") / "i")


def test_the_order_is_the_models_and_ties_keep_the_first(index):
    model = Longest()
    queries = ["same words", "words long"]
    found = Reranked(index, model, depth=20).search(queries, 7)
    assert model.calls == [40]
    for documents, first in zip(found, index.search(queries, 20), strict=True):
        expected = sorted(first, key=lambda d: -(len(d.contents.split()) // 4))[:7]
        assert [d.id for d in documents] == [d.id for d in expected]
        assert [d.score for d in documents] == [len(d.contents.split()) // 4 for d in expected]


def test_nothing_found_and_wrong_scores(index):
    assert Reranked(index, Longest()).search([], 3) == []

    class Nan(Longest):
        def predict(self, pairs, **_):
            return np.full(len(pairs), np.nan)

    with pytest.raises(EncoderError, match="not finite: expected one number"):
        Reranked(index, Nan()).search(["words"], 3)
    with pytest.raises(ValueError, match="depth=0"):
        Reranked(index, Nan(), depth=0)


def test_a_real_cross_encoder_from_a_folder(index, tmp_path):
    pytest.importorskip("sentence_transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "same", "words", "long"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    ).save_pretrained(tmp_path)
    size = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, num_labels=1, **size)
    BertForSequenceClassification(config).eval().save_pretrained(tmp_path)
    found = Reranked(index, str(tmp_path), depth=10).search(["same words"], 5)[0]
    assert len(found) == 5
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    with pytest.raises(EncoderError, match=r"cross-encoder '/none' does not load"):
        Reranked(index, "/none")
