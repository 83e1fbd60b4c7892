"""A pool of servers plays as the policy in this process does, loses nothing, and never plays with
other weights unnoticed."""

import copy
import itertools

import pytest
import torch

from ovd_agent.lora import LoraConfig, adapters, add_adapters
from ovd_agent.models import end_ids
from ovd_agent.policies.base import PolicyUnavailable, Sampling
from ovd_agent.policies.served import ServedPolicy
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.rollout import Rollout


@pytest.fixture
def pool(tokenizer, tmp_path):
    def make(*servers, **options):
        urls = [server.url for server in servers]
        return ServedPolicy(urls, tokenizer, folder=tmp_path / "w", max_length=640, **options)

    return make


def played(webqa, policy, tokenizer, count=12, **options):
    scenario, tasks = webqa
    return Rollout(scenario, policy, tokenizer, 8, 640, 8).play(tasks[:count], **options)


def ids(trajectories):
    return [trajectory.ids for trajectory in trajectories]


def test_greedy_play_is_that_of_the_policy_in_this_process(webqa, student, tokenizer, serve, pool):
    here = played(
        webqa, TorchPolicy(student, tokenizer, slots=8, max_length=640), tokenizer, temperature=0
    )
    there = played(webqa, pool(serve()), tokenizer, temperature=0)
    assert ids(there) == ids(here)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4, nan_ok=True)
        assert theirs.episode.turns == ours.episode.turns


def test_a_turn_ends_at_the_end_tokens_of_the_model(webqa, student, tokenizer, serve, pool):
    """Those of its generation_config, which need not be the tokenizer's."""
    free = pool(serve())
    free.submit(0, [1, 2, 3], Sampling(temperature=0, max_new_tokens=8))
    [(_, unbounded)] = free.collect()
    student.generation_config.eos_token_id = [5, unbounded.ids[3]]
    here = TorchPolicy(student, tokenizer, slots=8, max_length=640)
    there = pool(serve(), ends=end_ids(student, tokenizer))
    for policy in (here, there):
        policy.submit(0, [1, 2, 3], Sampling(temperature=0, max_new_tokens=8))
        [(_, completion)] = policy.collect()
        end = unbounded.ids.index(unbounded.ids[3]) + 1
        assert (completion.ids, completion.finish) == (unbounded.ids[:end], "stop")


def test_samples_depend_on_the_seed_and_not_on_the_pool(webqa, tokenizer, serve, pool):
    one, two = pool(serve.quick()), pool(serve.quick(), serve.quick())
    alone = ids(played(webqa, one, tokenizer))
    assert ids(played(webqa, two, tokenizer)) == alone
    two.seed(1)
    assert ids(played(webqa, two, tokenizer)) != alone


def test_an_episode_stays_with_one_server_and_both_are_used(webqa, tokenizer, serve, pool):
    servers = serve.quick(), serve.quick()
    played(webqa, pool(*servers), tokenizer, count=20)
    questions = [{tuple(body["prompt"][:90]) for body in server.bodies} for server in servers]
    turns = [[tuple(body["prompt"]) for body in server.bodies] for server in servers]
    assert all(turns)
    for mine, others in itertools.permutations(turns):
        for context in mine:  # no continuation of it was asked elsewhere
            assert not any(len(o) > len(context) and o[: len(context)] == context for o in others)
    assert sum(map(len, questions)) <= 20 + 2


@pytest.mark.parametrize("moment", [0, 3, 9])
def test_a_server_that_dies_costs_no_episode(webqa, tokenizer, serve, pool, moment):
    undisturbed = ids(played(webqa, pool(serve.quick()), tokenizer))
    dying = serve.quick(lambda number: "die" if number == moment else None)
    policy = pool(dying, serve.quick())
    assert ids(played(webqa, policy, tokenizer)) == undisturbed
    assert [server.up for server in policy.servers] == [False, True]
    assert policy.faults["connection"] >= 1


def test_faults_are_counted_and_lose_nothing(webqa, tokenizer, serve, pool):
    undisturbed = ids(played(webqa, pool(serve.quick()), tokenizer))
    faults = dict(enumerate(["500", "429", "503", "hang"] * 2))
    server = serve.quick(faults.get)
    policy = pool(server, try_seconds=3)
    assert ids(played(webqa, policy, tokenizer)) == undisturbed
    counted = {name: policy.faults[name] for name in ("500", "429", "503", "timeout")}
    assert counted == {"500": 2, "429": 2, "503": 2, "timeout": 2}
    assert policy.servers[0].in_flight == 0


def test_a_cut_connection_goes_elsewhere(webqa, tokenizer, serve, pool):
    undisturbed = ids(played(webqa, pool(serve.quick()), tokenizer))
    policy = pool(serve.quick(lambda number: "cut" if number == 2 else None), serve.quick())
    assert ids(played(webqa, policy, tokenizer)) == undisturbed


def test_without_any_server_one_sentence_says_what_to_start(webqa, tokenizer, serve, pool):
    server = serve.quick(lambda number: "die")
    with pytest.raises(PolicyUnavailable, match=r"no student answers at .*serve-model"):
        played(webqa, pool(server), tokenizer)


def test_a_request_that_is_refused_is_not_tried_again(tokenizer, serve, pool):
    server = serve.quick(lambda number: "400")
    policy = pool(server)
    policy.submit(0, [1, 2, 3], Sampling())
    with pytest.raises(PolicyUnavailable, match=r"refuses a request: HTTP 400"):
        policy.collect()
    assert len(server.bodies) == 1
    with pytest.raises(ValueError, match="a context of 0 ids"):
        policy.submit(0, [], Sampling())


def test_trouble_without_end_ends_at_the_deadline(tokenizer, serve, pool):
    policy = pool(serve.quick(lambda number: "500"), total_seconds=0.6)
    policy.submit(0, [1, 2, 3], Sampling())
    with pytest.raises(PolicyUnavailable, match=r"no completion: HTTP 500: no, for 0.6 seconds"):
        policy.collect()


def test_a_released_request_is_not_collected(tokenizer, serve, pool):
    policy = pool(serve.quick())
    policy.submit(0, [1, 2, 3], Sampling(max_new_tokens=200))
    policy.submit(1, [1, 2, 3], Sampling(max_new_tokens=2))
    policy.release(0)
    assert [key for key, _ in policy.collect(2)] == [1]
    assert policy.collect() == []


def test_weights_are_not_changed_under_a_request(student, serve, pool):
    policy = pool(serve.quick())
    policy.submit(0, [1, 2, 3], Sampling(max_new_tokens=2))
    with pytest.raises(RuntimeError, match="1 requests are under way"):
        policy.publish(student, 1)
    policy.collect()
    policy.publish(student, 1)


def moved(student, amount=0.05):
    other = copy.deepcopy(student)
    with torch.no_grad():
        for weight in other.parameters():
            weight += amount * torch.randn(weight.shape, generator=torch.manual_seed(3))
    return other


def test_published_weights_are_played_with(webqa, student, tokenizer, serve, pool, tmp_path):
    servers = serve(), serve()
    policy, other = pool(*servers), moved(student)
    assert policy.publish(student, 0)["probe"] < 1e-4
    figures = policy.publish(other, 7)
    assert figures["servers"] == 2
    assert figures["probe"] < 1e-4
    assert [server.resets for server in servers] == [2, 2]
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["version-7"]
    here = TorchPolicy(other, tokenizer, slots=8, max_length=640)
    there = played(webqa, policy, tokenizer, temperature=0)
    assert ids(there) == ids(played(webqa, here, tokenizer, temperature=0))
    assert {trajectory.version for trajectory in there} == {7}


def test_adapters_alone_are_played_with(webqa, student, tokenizer, serve, pool, tmp_path):
    server = serve()
    adapted = copy.deepcopy(student)
    add_adapters(adapted, LoraConfig(4))
    policy = pool(server, adapters=True)
    begun = ids(played(webqa, policy, tokenizer, temperature=0))
    for version in range(2):
        assert policy.publish(adapted, version)["probe"] < 1e-4
        here = TorchPolicy(adapted, tokenizer, slots=8, max_length=640)
        there = ids(played(webqa, policy, tokenizer, temperature=0))
        assert there == ids(played(webqa, here, tokenizer, temperature=0))
        assert (there == begun) is (version == 0)
        assert {body["model"] for body in server.bodies[-8:]} == {"adapters"}
        with torch.no_grad():
            for weight in adapters(adapted).values():
                weight += 0.3 * torch.randn(weight.shape)
    [folder] = (tmp_path / "w").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("first", [True, False])
def test_stale_weights_stop_the_run(student, serve, pool, first):
    policy = pool(serve(), serve(stale=True))
    if not first:
        policy.publish(student, 0)
    # The first limit is for weights that are quite different; later ones are as tight as rounding.
    with pytest.raises(PolicyUnavailable, match="does not serve the learner's weights"):
        policy.publish(moved(student, 0.5 if first else 0.01), 1)


def test_a_server_is_dropped_while_it_is_down_and_back_with_the_next_weights(
    webqa, student, tokenizer, serve, pool
):
    dying = serve(lambda number: "die")
    policy, port = pool(dying, serve()), dying.server_address[1]
    played(webqa, policy, tokenizer)
    assert policy.publish(student, 1)["servers"] == 1
    other = moved(student)
    back = serve(port=port)
    assert policy.publish(other, 2)["servers"] == 2
    assert [server.up for server in policy.servers] == [True, True]
    played(webqa, policy, tokenizer)
    assert back.bodies
    back.die()
    policy.servers.pop()
    with pytest.raises(PolicyUnavailable, match="no server takes the student's weights"):
        policy.publish(other, 3)
