"""Stop strings and growing contexts with real tokenizers: byte-level BPE, SentencePiece-like and
WordPiece-like ones."""

import importlib.util
import random

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ovd_agent.models import WHEELS, byte_tokenizer, converted, tiny_model
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.encoding import encode

STOPS = ("</search>", "</answer>", "\n\n")
TEXT = "<search>founder of Brill</search> naïve 東京 </ans </answer>\n\n1 < 2 > 0 <|x|> é\n"


def wordpiece():
    """Words and ##pieces, as BERT's: decoding joins pieces and puts spaces between words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(set(TEXT) - set(" \n"))
    words = ["search", "answer", "of", "found", "##er", "Br", "##ill", "</", "[UNK]", "[SEP]"]
    entries = [*words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(entries))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="[SEP]", pad_token="[SEP]", unk_token="[UNK]"
    )


def metaspace():
    """Byte fallback and ▁ for spaces, as SentencePiece's: Gemma, Llama 2."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", "▁of", "</", "search", ">"]
    letters = sorted(set(TEXT) & set("abcdefghijklmnopqrstuvwxyzB<>/|"))
    entries = dict.fromkeys([*pieces, *letters])
    vocabulary = {piece: n for n, piece in enumerate(entries)}
    inner = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")


def from_wheel(name):
    first = WHEELS[name].files[0].partition("/")[0]
    if importlib.util.find_spec(first) is None:
        pytest.skip(f"{name} is not installed: {WHEELS[name].command}")
    return AutoTokenizer.from_pretrained(str(converted(name)))


MADE = {"bytes": byte_tokenizer, "WordPiece": wordpiece, "SentencePiece": metaspace}


@pytest.fixture(scope="module", params=[*MADE, "smollm2", "qwen2.5-coder-0.5b"])
def tokenizer(request):
    return MADE[request.param]() if request.param in MADE else from_wheel(request.param)


def test_a_stop_string_is_seen_at_the_very_token_that_completes_it(tokenizer):
    """Against decoding everything after every token."""
    policy = TorchPolicy(tiny_model()[0], tokenizer, slots=1, max_length=4096)
    rng = random.Random(0)
    ids = encode(tokenizer, TEXT)
    scripts = [ids, *(rng.sample(ids, len(ids)) for _ in range(20))]
    scripts += [rng.choices(ids, k=30) + ids for _ in range(20)]
    seen = 0
    for script in scripts:
        policy.submit(0, [1], Sampling(stop=STOPS))
        slot = policy._by_key[0]
        for number, token in enumerate(script, start=1):
            slot.ids.append(token)
            text = tokenizer.decode(script[:number], skip_special_tokens=False)
            expected = any(stop in text for stop in STOPS)
            assert policy._at_stop(slot, STOPS) == expected, text
            seen += expected
            if expected:
                break
        policy.weights_changed(0)
    assert seen or "</search>" not in tokenizer.decode(ids)  # WordPiece writes "< / search"


def test_nothing_is_put_around_a_span_that_is_appended(tokenizer):
    assert encode(tokenizer, "") == []
    unknown = {tokenizer.unk_token_id}
    for span in (TEXT, "\n<information>\n[1] Brill\n</information>\n"):
        assert not set(encode(tokenizer, span)) & set(tokenizer.all_special_ids) - unknown
