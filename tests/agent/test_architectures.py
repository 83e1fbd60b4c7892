"""A student plays as the model it is, or is refused in one sentence: tiny random models of many
architectures, over contexts beyond their sliding windows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from ovd_agent.learner.checkpoint import load_checkpoint, save_checkpoint
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.models import byte_tokenizer
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.check import UnplayableModel, check_played
from ovd_agent.policies.torch_policy import TorchPolicy

WINDOW, LENGTH, VOCABULARY = 8, 40, 512
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SLIDING = {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 2}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES = {
    "llama": {},
    "mistral": SLIDING,
    "ministral": SLIDING,
    "qwen2": SLIDING,
    "qwen3": SLIDING,
    "phi3": SLIDING,
    "starcoder2": SLIDING,
    "gemma": {},
    "gemma2": {**SLIDING, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 8},
    "olmo": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "smollm3": {**SLIDING, "no_rope_layer_interval": 2},
    "cohere": {},
    "cohere2": SLIDING,
    "granite": {},
    "stablelm": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "gpt_oss": {**SLIDING, **EXPERTS},
    "mixtral": {**EXPERTS, "sliding_window": WINDOW},
    "qwen3_moe": {**SLIDING, **EXPERTS, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
}


REFUSED = ("gemma2", "cohere", "cohere2")
"""They scale or cap their logits after the output head."""


def tiny(name):
    options = {**SHAPE, **ARCHITECTURES[name]}
    try:
        config = AutoConfig.for_model(name, **options)
    except (ValueError, KeyError) as error:
        pytest.skip(f"transformers {transformers.__version__} has no {name}: {error}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).float().eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_plays_as_the_model_itself_or_is_refused(name):
    model = tiny(name)
    policy = TorchPolicy(model, byte_tokenizer(), slots=3, max_length=LENGTH)
    if name in REFUSED:
        with pytest.raises(
            UnplayableModel, match=f"student '{name}' .*output head is not supported"
        ):
            check_played(policy, name)
        return
    check_played(policy, name)
    generator = torch.Generator().manual_seed(1)
    contexts = [
        torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in (5, 20, 34)
    ]
    contexts[2][:5] = contexts[0]  # a beginning that is shared
    for key, context in enumerate(contexts):
        policy.submit(key, context, Sampling(temperature=1.0, max_new_tokens=6))
    found = dict(policy.collect(at_least=3))
    for key, completion in found.items():
        whole = torch.tensor([contexts[key] + completion.ids])
        with torch.no_grad():
            every = model(input_ids=whole, use_cache=False).logits[0].log_softmax(-1)
        start = len(contexts[key])
        expected = [float(every[start + n - 1, token]) for n, token in enumerate(completion.ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_wrong_mask_is_refused_by_name(monkeypatch):
    model = tiny("mistral")
    policy = TorchPolicy(model, byte_tokenizer(), slots=3, max_length=LENGTH)
    policy._decoder._masks._window = None
    with pytest.raises(
        UnplayableModel, match=r"student 'mine' \(MistralForCausalLM\): .*or --policy vllm"
    ):
        check_played(policy, "mine")


@pytest.mark.parametrize("gap", [0.12, 0.5])
def test_a_trained_student_is_not_refused_for_the_rounding_of_bfloat16(gap, monkeypatch):
    """Logits of 28 are rounded to 0.125; a window of three quarters differs by some 0.9."""
    model = tiny("llama").bfloat16()
    policy = TorchPolicy(model, byte_tokenizer(), slots=3, max_length=LENGTH)
    played = policy.collect

    def rounded(at_least):
        for key, completion in played(at_least):
            yield key, replace(completion, logprobs=[said + gap for said in completion.logprobs])

    monkeypatch.setattr(policy, "collect", rounded)
    refused = pytest.raises(UnplayableModel, match="nats a token apart")
    with refused if gap > 0.25 else nullcontext():
        check_played(policy, "mine")


def test_more_tokens_than_the_model_has_positions_are_refused():
    policy = TorchPolicy(tiny("gpt2"), byte_tokenizer(), slots=2, max_length=65)
    with pytest.raises(UnplayableModel, match="reads at most 64 tokens"):
        check_played(policy, "gpt2")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_oss", "mixtral", "qwen3_moe"])
def test_it_resumes_bit_for_bit(name, tmp_path):
    """Also where transformers keeps the experts of a mixture under other names in memory."""
    model = tiny(name)
    learner = Learner(model, LearnerConfig())
    row = TrainingRow.blank(list(range(2, 12)), "demonstration")
    row.stream("ce")[1:] = 1.0
    learner.update([row])
    save_checkpoint(tmp_path, model, byte_tokenizer(), learner, {"update": 1})
    other = tiny(name)
    resumed = Learner(other, LearnerConfig())
    assert load_checkpoint(tmp_path, other, resumed) == {"update": 1}
    for (key, weight), found in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, found), key
    for each in learner, resumed:
        each.update([row])
    for weight, found in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, found)
