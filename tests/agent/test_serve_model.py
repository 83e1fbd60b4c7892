"""The command that serves a model: on loopback, with weights to be replaced for a student only."""

from pathlib import Path

import pytest

import ovd_agent.cli.serve_model
from ovd_envs.errors import OptionError


@pytest.fixture
def serve_model():
    return ovd_agent.cli.serve_model


def flags(words):
    return dict(zip(words, [*words[1:], None], strict=True))


def test_a_student_takes_weights_and_says_log_probabilities_under_its_temperature(serve_model):
    words = serve_model.command(serve_model.Options(model="some/model", port=8005))
    found = flags(words)
    assert found["--model"] == "some/model"
    assert found["--served-model-name"] == "student"
    assert (found["--host"], found["--port"]) == ("127.0.0.1", "8005")
    assert found["--logprobs-mode"] == "processed_logprobs"
    assert found["--generation-config"] == "vllm"  # no top_k of the repository's own
    module, _, name = found["--worker-extension-cls"].rpartition(".")
    source = Path(__file__).parents[2] / (module.replace(".", "/") + ".py")
    assert f"class {name}" in source.read_text()


def test_a_student_makes_room_for_adapters_where_it_is_to_take_them(serve_model):
    assert "--enable-lora" not in serve_model.command(serve_model.Options(model="some/model"))
    found = flags(serve_model.command(serve_model.Options(model="some/model", lora_rank=4)))
    assert "--enable-lora" in found
    assert found["--max-lora-rank"] == "8"  # the next that vLLM has


def test_a_teacher_is_served_as_it_is(serve_model):
    found = flags(serve_model.command(serve_model.Options(model="some/model", role="teacher")))
    assert found["--served-model-name"] == "teacher"
    assert "--worker-extension-cls" not in found


def test_a_teacher_may_have_several_gpus_and_copies(serve_model):
    options = serve_model.Options(role="teacher", model="m", tensor_parallel=2, data_parallel=3)
    found = flags(serve_model.command(options))
    assert (found["--tensor-parallel-size"], found["--data-parallel-size"]) == ("2", "3")
    with pytest.raises(OptionError, match="weights reach one copy of a student"):
        serve_model.Options(data_parallel=2)
    with pytest.raises(OptionError, match="tensor_parallel=0: expected at least 1"):
        serve_model.Options(tensor_parallel=0)


def test_without_vllm_one_sentence_says_what_to_do(serve_model, monkeypatch):
    monkeypatch.setattr(serve_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="make setup-vllm"):
        serve_model.main([])
