"""vLLM as a policy: the same tokens and log-probabilities as the policy in this process, weights
that arrive or stop the run, servers that die without an episode lost."""

import copy
import threading
import time

import pytest
import torch
from vllm_server import kill, served

pytest.importorskip("vllm", reason="make setup-vllm, then make test-vllm")

from ovd_agent.lora import LoraConfig, adapters, add_adapters
from ovd_agent.policies.base import PolicyUnavailable, Sampling
from ovd_agent.policies.served import ServedPolicy
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.policies.vllm_policy import VllmPolicy
from ovd_agent.rollouts.encoding import encode_prompt
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.registry import make_scenario
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.llm.teacher import LLMOptions, LLMTeacher

pytestmark = pytest.mark.vllm
MAX_LENGTH = 448


@pytest.fixture(scope="module")
def webqa():
    return make_scenario("ovd/WebQA-v0", hops=[1, 2], top_k=1, max_turns=3)


@pytest.fixture(scope="module")
def in_process(checkpoint, loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return VllmPolicy(checkpoint, loaded[1], folder=folder, slots=16, max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    log = tmp_path_factory.mktemp("logs")
    with served("student", log / "a") as first, served("student", log / "b") as second:
        yield first, second


def play(webqa, policy, tokenizer, count=6, **options):
    scenario, tasks = webqa
    return Rollout(scenario, policy, tokenizer, 16, MAX_LENGTH, 24).play(tasks[:count], **options)


def agree(ours, theirs):
    """The same episodes, and log-probabilities within 1e-3 (float32 on both sides)."""
    assert [each.ids for each in ours] == [each.ids for each in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3, nan_ok=True)


def test_in_process_plays_as_torch_does(webqa, in_process, reference, loaded):
    there = play(webqa, in_process, loaded[1], temperature=0)
    agree(play(webqa, reference, loaded[1], temperature=0), there)


def test_samples_follow_their_seed(webqa, in_process, loaded):
    in_process.seed(1)
    first, again = (play(webqa, in_process, loaded[1]) for _ in range(2))
    in_process.seed(2)
    other = play(webqa, in_process, loaded[1])
    ids = [[each.ids for each in each_play] for each_play in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def crowd(policy, vocabulary=40_000, requests=16, length=400):
    """Sample a token for more and longer prompts than an engine reads at once."""
    for key in range(requests):
        context = [(1 + key) * 7919 * (1 + place) % vocabulary for place in range(length)]
        policy.submit(key, context, Sampling(max_new_tokens=1))
    return policy.collect(at_least=requests)


def test_a_crowd_of_long_prompts_is_sampled(in_process, servers, loaded, tmp_path):
    """vLLM without a GPU must not read a seeded request's prompt in parts."""
    assert len(crowd(in_process)) == 16
    url = servers[0][0]
    policy = ServedPolicy([url], loaded[1], folder=tmp_path, max_length=MAX_LENGTH)
    assert sorted(key for key, _ in crowd(policy)) == list(range(16))
    assert not policy.faults


def test_log_probabilities_are_under_the_temperature(webqa, in_process, reference, loaded):
    scenario, tasks = webqa
    context = encode_prompt(loaded[1], scenario.prompt(tasks[0]))
    in_process.submit(0, context, Sampling(temperature=0.5, max_new_tokens=12))
    [(_, sampled)] = in_process.collect()
    ids = torch.tensor([context + sampled.ids])
    with torch.inference_mode():
        logits = loaded[0](input_ids=ids).logits[0, len(context) - 1 : -1] / 0.5
    expected = logits.log_softmax(-1).gather(1, torch.tensor(sampled.ids)[:, None])[:, 0]
    assert sampled.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


def test_in_process_publication(webqa, in_process, loaded, moved):
    model, tokenizer = loaded
    before = in_process.publish(model, 0)["probe"]
    assert before < 1e-3
    assert in_process.publish(moved, 1)["probe"] < 1e-3
    here = play(
        webqa,
        TorchPolicy(moved, tokenizer, slots=16, max_length=MAX_LENGTH),
        tokenizer,
        temperature=0,
    )
    agree(here, play(webqa, in_process, tokenizer, temperature=0))
    assert in_process.publish(model, 2)["probe"] < 1e-3


def test_adapters_arrive_merged(webqa, in_process, loaded):
    model, tokenizer = loaded
    adapted = copy.deepcopy(model)
    add_adapters(adapted, LoraConfig(8))
    with torch.no_grad():
        for weight in adapters(adapted).values():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    assert in_process.publish(adapted, 5)["probe"] < 1e-3
    here = TorchPolicy(adapted, tokenizer, slots=16, max_length=MAX_LENGTH)
    there = play(webqa, in_process, tokenizer, temperature=0)
    agree(play(webqa, here, tokenizer, temperature=0), there)
    assert in_process.publish(model, 6)["probe"] < 1e-3
    assert [each.ids for each in play(webqa, in_process, tokenizer, temperature=0)] != [
        each.ids for each in there
    ]


def test_an_engine_that_keeps_old_weights_stops_the_run(in_process, loaded, moved, monkeypatch):
    in_process.publish(loaded[0], 3)
    monkeypatch.setattr(in_process._engine, "collective_rpc", lambda *_, **__: None)
    with pytest.raises(PolicyUnavailable, match="does not serve the learner's weights"):
        in_process.publish(moved, 4)


def test_served_plays_and_takes_weights(webqa, servers, reference, loaded, moved, tmp_path):
    model, tokenizer = loaded
    urls = [url for url, _ in servers]
    policy = ServedPolicy(urls, tokenizer, folder=tmp_path, max_length=MAX_LENGTH)
    assert policy.publish(model, 0) == {"probe": pytest.approx(0, abs=1e-3), "servers": 2}
    here = play(webqa, reference, tokenizer, temperature=0)
    agree(here, play(webqa, policy, tokenizer, temperature=0))
    assert policy.publish(moved, 1)["probe"] < 1e-3
    changed = play(webqa, policy, tokenizer, temperature=0)
    assert [each.ids for each in changed] != [each.ids for each in here]
    assert policy.publish(model, 2)["probe"] < 1e-3
    agree(here, play(webqa, policy, tokenizer, temperature=0))


def test_a_server_killed_in_mid_rollout_costs_no_episode(webqa, servers, loaded, tmp_path):
    (first, _), (second, process) = servers
    policy = ServedPolicy([first, second], loaded[1], folder=tmp_path, max_length=MAX_LENGTH)
    killer = threading.Thread(target=lambda: (time.sleep(1.5), kill(process)))
    killer.start()
    played = play(webqa, policy, loaded[1], count=24)
    killer.join()
    assert len(played) == 24
    assert all(each.episode.done for each in played)
    assert {each.episode.end_reason for each in played} <= {
        "answered",
        "turn_limit",
        "length_limit",
        "invalid_limit",
    }
    assert [server.up for server in policy.servers] == [True, False]
    assert policy.faults["connection"] >= 1


def test_a_served_teacher_gives_digits(webqa, tmp_path):
    scenario, tasks = webqa
    episodes = scenario.demonstrate(tasks[:4])
    with served("teacher", tmp_path / "log") as (url, _):
        teacher = LLMTeacher(LLMOptions("teacher", f"{url}/v1", total_seconds=300, try_seconds=120))
        requests = [ScoreRequest(e, i, 10) for e in episodes for i in range(len(e.turns))]
        scores = teacher.score(requests)
    assert [score.level is None for score in scores] == [False] * len(requests)
    assert all(0 <= score.level <= 9 for score in scores)
    assert teacher.usage.missing == 0
    assert teacher.usage.requests == len(requests)  # the first form asked for was understood
