"""vLLM in this process, as far as it can be tried without it: an engine that drops its weights when
it sleeps, and which policy "auto" is. Real engines: `make test-vllm`."""

import copy
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ovd_agent.lora import LoraConfig
from ovd_agent.policies import IN_PROCESS, VllmOptions, chosen_policy
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.policies.vllm_policy import VllmPolicy
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.forecast import CARD, foreseen
from ovd_envs.errors import OptionError


class Engine:
    """Holds weights of its own; asleep it has none, and at level 2 they do not come back."""

    def __init__(self, model):
        self.model, self.told, self.awake = copy.deepcopy(model), [], {"weights", "kv_cache"}
        self.kept = None

    def sleep(self, level):
        self.told.append(f"sleep {level}")
        self.awake, self.kept = set(), copy.deepcopy(self.model.state_dict()) if level < 2 else None
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.fill_(float("nan"))

    def wake_up(self, tags):
        self.told.append(f"wake {tags[0]}")
        self.awake |= set(tags)
        if "weights" in tags and self.kept is not None:
            self.model.load_state_dict(self.kept)

    def collective_rpc(self, method, args):
        assert method == "load_tensors"
        assert "weights" in self.awake
        self.told.append("load")
        weights = dict(args[0])
        assert len({weight.data_ptr() for weight in weights.values()}) == len(weights)
        self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()

    def reset_prefix_cache(self):
        assert self.awake == {"weights", "kv_cache"}


@pytest.fixture
def engines(monkeypatch, student):
    """Stands in for the package `vllm` on a machine with a GPU."""
    made = []

    class LLM:
        def __init__(self, model, **options):
            self.options, self.llm_engine = options, Engine(student)
            made.append(self)

        @torch.inference_mode()
        def generate(self, prompt, parameters, **_):
            ids = prompt["prompt_token_ids"]
            logprobs = self.llm_engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            places = [
                {token: SimpleNamespace(logprob=float(logprobs[place, token]))}
                for place, token in enumerate(ids[1:])
            ]
            return [SimpleNamespace(prompt_logprobs=[None, *places])]

    package, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.LLM, package.SamplingParams = LLM, lambda **options: options
    sampling.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", sampling)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name == "vllm" else found(name)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return made


def changed(model, seed):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return other


def test_it_sleeps_while_the_learner_works_and_wakes_with_new_weights(
    engines, student, tokenizer, tmp_path
):
    policy = VllmPolicy("tiny", tokenizer, folder=tmp_path, max_length=64)
    [llm] = engines
    assert llm.options["enable_sleep_mode"]
    assert llm.options["gpu_memory_utilization"] == VllmOptions().memory_share
    for version in range(3):
        model = changed(student, version)
        assert policy.publish(model, version)["probe"] < 1e-5
        there, ours = llm.llm_engine.model.state_dict(), model.state_dict()
        assert all(torch.equal(there[name], ours[name]) for name in ours)
        policy.rest()
        policy.rest()  # a second time changes nothing
    assert llm.llm_engine.told == [
        *("load", "sleep 2"),
        *2 * ("wake weights", "load", "wake kv_cache", "sleep 2"),
    ]
    assert not list(tmp_path.iterdir()), "weights went over the disk"


def test_it_stays_awake_where_it_is_told_to(engines, student, tokenizer, tmp_path):
    options = VllmOptions(memory_share=0.2, sleep=False)
    policy = VllmPolicy("tiny", tokenizer, folder=tmp_path, max_length=64, options=options)
    policy.publish(student, 0)
    policy.rest()
    policy.publish(student, 1)
    assert engines[0].llm_engine.told == ["load", "load"]
    assert engines[0].options["gpu_memory_utilization"] == 0.2


def test_weights_that_do_not_come_back_stop_the_run(engines, student, tokenizer, tmp_path):
    policy = VllmPolicy("tiny", tokenizer, folder=tmp_path, max_length=64)
    policy.publish(student, 0)
    policy.rest()
    engines[0].llm_engine.collective_rpc = lambda *_, **__: None
    with pytest.raises(PolicyUnavailable, match="does not serve the learner's weights"):
        policy.publish(changed(student, 1), 1)


def test_auto_is_vllm_where_it_and_a_gpu_are_there(engines, monkeypatch):
    assert chosen_policy("auto").name == "vllm"
    assert chosen_policy("torch").name == IN_PROCESS
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_policy("auto").name == IN_PROCESS


def test_auto_without_vllm_is_torch():
    assert chosen_policy("auto").name == IN_PROCESS
    assert TrainConfig(policy="auto").record()["policy"] == {"name": "auto"}
    with pytest.raises(OptionError, match="expected vLLM"):
        TrainConfig(policy="auto", lora=LoraConfig(4, merge=False))


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_of_all_memory_or_none_is_refused(share):
    with pytest.raises(OptionError, match="memory_share"):
        TrainConfig(policy={"name": "vllm", "memory_share": share})


def test_a_forecast_counts_the_engine(student):
    def parts(**options):
        config = TrainConfig(policy={"name": "vllm", **options}, updates=1)
        return foreseen(config, student.config, "cuda", torch.bfloat16)

    asleep, awake = parts(memory_share=0.5), parts(memory_share=0.5, sleep=False)
    assert awake["engine"] == CARD // 2
    freed = sum(asleep[name] for name in ("gradients", "activations", "logits"))
    assert asleep["engine"] == awake["engine"] - freed
    assert asleep["policy"] == asleep["cache"] == 0
    assert parts(memory_share=0.5)["engine"] + freed == CARD // 2
