"""vLLM in bfloat16, as training runs it where the processor multiplies in it.

Two kernels that round differently cannot sample the same tokens for ever, so what is compared is
the log-probability of what was sampled: against float32 with the same weights, in nats a token.
"""

import copy

import pytest
import torch

pytest.importorskip("vllm", reason="make setup-vllm, then make test-vllm")

from ovd_agent.models import compute_dtype
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.policies.vllm_policy import VllmPolicy
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.registry import make_scenario

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        compute_dtype(torch.device("cpu")) == torch.float32,
        reason="this processor does not multiply in bfloat16",
    ),
]
MEAN, LARGEST = 0.1, 1.0
"""Nats a sampled token: what is tolerated at all. Measured: 0.04 to 0.05, and at most 0.45."""


@pytest.fixture(scope="module")
def rounded(checkpoint, loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return VllmPolicy(
        checkpoint, loaded[1], folder=folder, slots=16, max_length=448, dtype=torch.bfloat16
    )


def logprobs_of(model, trajectory):
    """The model's log-probability of each id, 0 for the first."""
    ids = torch.tensor([trajectory.ids])
    with torch.inference_mode():
        logprobs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    return torch.cat([torch.zeros(1), logprobs.gather(1, ids[0, 1:, None])[:, 0]])


def gaps(model, trajectories):
    """How far the sampled tokens' log-probabilities lie from the model's own: those of the engine,
    and those of the same model rounded to bfloat16 as a whole."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    engine, rounding = [], []
    for each in trajectories:
        own, there = logprobs_of(model, each), torch.tensor(each.logprobs)
        for span in each.written:
            place = slice(span.start, span.end)
            engine.append((there - own)[place].abs())
            rounding.append((logprobs_of(half, each) - own)[place].abs())
    return torch.cat(engine), torch.cat(rounding)


def test_log_probabilities_agree_with_float32(rounded, loaded, moved):
    model, tokenizer = loaded
    scenario, tasks = make_scenario("ovd/WebQA-v0", hops=[1, 2], top_k=1, max_turns=3)
    for version, weights in enumerate((model, moved)):
        assert rounded.publish(weights, version)["probe"] < MEAN
        played = Rollout(scenario, rounded, tokenizer, 16, 448, 24).play(tasks[:8])
        engine, rounding = gaps(weights, played)
        assert len(engine) > 100
        assert engine.mean() < min(MEAN, 2 * rounding.mean())
        assert engine.max() < LARGEST


def test_the_probe_still_tells_other_weights(rounded, loaded, moved, monkeypatch):
    rounded.publish(loaded[0], 3)
    monkeypatch.setattr(rounded._engine, "collective_rpc", lambda *_, **__: None)
    with pytest.raises(PolicyUnavailable, match="does not serve the learner's weights"):
        rounded.publish(moved, 4)
