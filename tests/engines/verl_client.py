"""verl's client, as actors of Ray are given it."""

from __future__ import annotations

from types import SimpleNamespace

from ovd_agent.models import load_model
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy


class Client:
    """verl's client, whose server is the student in this process."""

    def __init__(self, student: str, broken: bool = False) -> None:
        self.model, self.tokenizer = load_model(student)
        self.broken, self.asked = broken, []

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        self.asked.append(request_id)
        if self.broken:
            return SimpleNamespace(token_ids=[], log_probs=None, stop_reason="aborted")
        policy = TorchPolicy(self.model, self.tokenizer)
        sampling = Sampling(
            sampling_params["temperature"],
            sampling_params["top_p"],
            sampling_params["max_tokens"],
            tuple(sampling_params["stop"]),
        )
        policy.seed(sampling_params["seed"])
        policy.submit(0, prompt_ids, sampling)
        [(_, found)] = policy.collect()
        return SimpleNamespace(token_ids=found.ids, log_probs=found.logprobs, stop_reason="stop")
