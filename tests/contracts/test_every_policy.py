"""What every policy keeps to: the one in this process here; vLLM's with real engines in
tests/engines, the served one with a real server in tests/agent/test_served.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovd_agent.models import tiny_model
from ovd_agent.policies import POLICIES
from ovd_agent.policies.base import PolicyContext, Sampling
from ovd_envs.errors import OptionError

NEEDS_AN_ENGINE = {"vllm", "http", "https"}
GREEDY = Sampling(temperature=0.0, max_new_tokens=5)


@pytest.fixture(params=sorted({*POLICIES.names()} - NEEDS_AN_ENGINE))
def made(request, tmp_path: Path):
    model, tokenizer = tiny_model()
    context = PolicyContext(
        model, tokenizer, "tiny", tmp_path, slots=4, max_length=64, dtype=torch.float32, lora_rank=0
    )
    return POLICIES.choose(request.param).build(context), model


def logprobs(model, context, ids):
    with torch.no_grad():
        every = model(torch.tensor([context + ids])).logits[0].log_softmax(-1)
    return [float(every[len(context) + n - 1, token]) for n, token in enumerate(ids)]


def test_it_continues_many_contexts_with_the_models_own_log_probabilities(made) -> None:
    policy, model = made
    contexts = {key: [7 + key, 3, 9, *range(10, 10 + 5 * key)] for key in range(4)}
    for key, context in contexts.items():
        policy.submit(key, context, GREEDY)
    found = dict(policy.collect(at_least=4))
    assert found.keys() == contexts.keys()
    for key, completion in found.items():
        expected = logprobs(model, contexts[key], completion.ids)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        assert completion.finish in ("stop", "length")
    # A context only grows; what was computed for its beginning may be kept.
    longer = {key: contexts[key] + found[key].ids + [5, 6] for key in contexts}
    for key, context in longer.items():
        policy.submit(key, context, GREEDY)
    for key, completion in policy.collect(at_least=4):
        expected = logprobs(model, longer[key], completion.ids)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        policy.release(key)


def test_a_seed_decides_what_is_sampled(made) -> None:
    policy, model = made
    drawn = []
    for seed in (1, 1, 2):
        policy.publish(model, 0)
        policy.seed(seed)
        policy.submit(0, [7, 3, 9], Sampling(temperature=1.0, max_new_tokens=20))
        [(_, completion)] = policy.collect()
        drawn.append(completion.ids)
        policy.release(0)
    assert drawn[0] == drawn[1] != drawn[2]


def test_it_plays_the_weights_that_were_published_last(made) -> None:
    policy, _ = made
    other, _ = tiny_model(seed=3)
    policy.publish(other, 4)
    policy.submit(0, [7, 3, 9], GREEDY)
    [(_, completion)] = policy.collect()
    assert completion.version == policy.version == 4
    expected = logprobs(other, [7, 3, 9], completion.ids)
    assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_context_that_does_not_fit_is_refused(made) -> None:
    policy, _ = made
    with pytest.raises((ValueError, OptionError), match="64"):
        policy.submit(0, list(range(64)), GREEDY)
