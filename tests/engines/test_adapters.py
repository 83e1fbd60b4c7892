"""Adapters that vLLM takes alone, without the weights they belong to: it plays as torch does."""

import copy

import pytest
import torch
from vllm_server import served

pytest.importorskip("vllm", reason="make setup-vllm, then make test-vllm")

from ovd_agent.lora import LoraConfig, adapters, add_adapters
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.policies.served import ServedPolicy
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.policies.vllm_policy import VllmPolicy
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.registry import make_scenario

pytestmark = pytest.mark.vllm
MAX_LENGTH, RANK = 448, 4


@pytest.fixture(scope="module")
def trained(loaded):
    """The student with adapters as they begin, and as three updates might have left them."""
    versions = []
    for seed in range(3):
        model = copy.deepcopy(loaded[0])
        add_adapters(model, LoraConfig(RANK))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in adapters(model).values():
                weight += 0.02 * seed * torch.randn(weight.shape, generator=generator)
        versions.append(model)
    return versions


def greedy(policy, tokenizer):
    scenario, tasks = make_scenario("ovd/WebQA-v0", hops=[1, 2], top_k=1, max_turns=3)
    return Rollout(scenario, policy, tokenizer, 16, MAX_LENGTH, 24).play(tasks[:6], temperature=0)


def follows(policy, trained, tokenizer):
    """Each publication arrives, and the engine then plays as those weights do in torch."""
    plays = []
    for version, model in enumerate(trained):
        found = policy.publish(model, version)
        assert found["probe"] < 1e-3
        there = greedy(policy, tokenizer)
        here = greedy(TorchPolicy(model, tokenizer, slots=16, max_length=MAX_LENGTH), tokenizer)
        assert [each.ids for each in there] == [each.ids for each in here]
        for ours, theirs in zip(here, there, strict=True):
            assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3, nan_ok=True)
        plays.append([each.ids for each in there])
    assert plays[0] != plays[1] != plays[2]


def test_in_process(checkpoint, loaded, trained, tmp_path):
    policy = VllmPolicy(
        checkpoint, loaded[1], folder=tmp_path, slots=16, max_length=MAX_LENGTH, lora_rank=RANK
    )
    follows(policy, trained, loaded[1])
    policy._loaded = lambda folder: policy._adapters  # the old ones again
    with pytest.raises(PolicyUnavailable, match="does not serve the learner's weights"):
        policy.publish(trained[1], 9)


def test_served(loaded, trained, tmp_path):
    with served("student", tmp_path / "log", "--lora-rank", str(RANK)) as (url, _):
        for run in ("first", "again"):  # a server outlives the run that it served
            policy = ServedPolicy(
                [url], loaded[1], folder=tmp_path / run, max_length=MAX_LENGTH, adapters=True
            )
            follows(policy, trained, loaded[1])


def test_a_server_without_room_for_adapters_is_named(loaded, trained, tmp_path):
    with served("student", tmp_path / "log") as (url, _):
        policy = ServedPolicy([url], loaded[1], folder=tmp_path / "w", adapters=True)
        with pytest.raises(PolicyUnavailable, match="--role student --lora-rank"):
            policy.publish(trained[1], 0)
