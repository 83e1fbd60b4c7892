"""Does the policy play the very model it was given? Asked before a run, where it costs a second."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_envs.errors import OVDError

LIMITS = {torch.float32: 1e-2, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Nats a token, the mean of a context. In bfloat16 logits of 28 are rounded to 0.125: a trained
student differs from itself by 0.06, from one with a window of three quarters by 0.9."""
_TOKENS = 8


class UnplayableModel(OVDError, ValueError):
    """The policy's attention is not that of the model."""


@torch.inference_mode()
def check_played(policy: TorchPolicy, student: str) -> None:
    """Compare log-probabilities with `model(ids)` over contexts up to the longest of the run.

    Raises UnplayableModel naming the student where they differ: with a sliding window or another
    attention, say, that the policy does not know of.
    """
    model = policy.model
    longest = _longest(model, policy.max_length, student)
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore
    sampling = Sampling(temperature=0.0, max_new_tokens=_TOKENS)
    contexts: dict[int, list[int]] = {}
    for key, length in enumerate({max(1, longest - _TOKENS), max(1, longest // 3)}):
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        contexts[key] = ids
        policy.submit(key, ids, sampling)
    for key, completion in policy.collect(at_least=len(contexts)):
        whole = torch.tensor([contexts[key] + completion.ids], device=model.device)
        logits: Tensor = model(input_ids=whole, use_cache=False).logits[0].float()
        every = logits.log_softmax(-1)
        start, count = len(contexts[key]), len(completion.ids)
        said = every[start - 1 : start - 1 + count].gather(1, whole[0, start:, None])[:, 0].cpu()
        gap = float((said - torch.tensor(completion.logprobs)).abs().mean())
        if not gap <= LIMITS.get(model.dtype, LIMITS[torch.float32]):
            raise UnplayableModel(
                f"student {student!r} ({type(model).__name__}): the policy 'torch' plays it with"
                f" other probabilities than the model's own ({gap:.2g} nats a token apart after"
                f" {start} tokens), since its attention or its output head is not supported; use"
                " another student, or --policy vllm"
            )
    for key in contexts:
        policy.release(key)
    policy.weights_changed(policy.version)


def _longest(model: PreTrainedModel, max_length: int, student: str) -> int:
    """The longest context of the run. Raises UnplayableModel if the model cannot read it."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and max_length > positions:
        raise UnplayableModel(
            f"student {student!r} reads at most {positions} tokens, but rollout.max_length is"
            f" {max_length}: lower it"
        )
    return max_length
