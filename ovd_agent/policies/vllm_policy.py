"""vLLM in this process as a policy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.models import checkpoint_path, end_ids
from ovd_agent.policies import VllmOptions
from ovd_agent.policies.base import Completion, PolicyContext, Sampling
from ovd_agent.policies.publish import Probe, distinct_weights, write_weights
from ovd_envs.errors import OptionError

EXTENSION = "ovd_agent.policies.vllm_worker.LoadsWeights"
CPU_CACHE_GIB = "2"
ADAPTERS = "adapters"
"""The name under which an engine knows the student's adapters."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for."""


def build(options: VllmOptions, context: PolicyContext) -> VllmPolicy:
    """Raises OptionError where vLLM is not installed."""
    return VllmPolicy(
        checkpoint_path(context.student),
        context.tokenizer,
        folder=context.folder,
        slots=context.slots,
        max_length=context.max_length,
        dtype=context.dtype,
        lora_rank=context.lora_rank,
        ends=end_ids(context.model, context.tokenizer),
        options=options,
    )


class VllmPolicy:
    """A `TrainedPolicy` by a `vllm.LLM`: continuous batching, prefix cache over the turns.

    Each request has a random seed of its own, made of the policy's seed, the episode's key and
    the length of its context; so what an episode samples does not depend on the others' timing.
    """

    def __init__(
        self,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        folder: Path,
        slots: int = 64,
        max_length: int = 1024,
        dtype: torch.dtype = torch.float32,
        lora_rank: int = 0,
        ends: Iterable[int] = (),
        options: VllmOptions | None = None,
    ) -> None:
        """`model` is a checkpoint's folder or an id on the Hub; with `lora_rank` adapters pass
        through `folder`; `ends` are the tokens that end a turn. Raises OptionError where vLLM is
        not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise OptionError(
                'policy="vllm" needs vLLM in this environment: make setup-vllm, then run the same'
                " command by .venv-vllm/bin/python"
            )
        # The engine's steps then run in this process, where its weights can be reached.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        cuda = torch.cuda.is_available()
        options = options or VllmOptions()
        self._sleeps, self._asleep = cuda and options.sleep, False
        device = (
            {"gpu_memory_utilization": options.memory_share, "enable_sleep_mode": options.sleep}
            if cuda
            # Without a GPU vLLM 0.32 dies of a seeded request whose prompt it reads in parts
            # ("CPU Generator does not use offset").
            else {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_length)}
        )
        self._vllm: Any = importlib.import_module("vllm")
        self._llm: Any = self._vllm.LLM(
            model,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_length,
            max_num_seqs=slots,
            enforce_eager=not cuda,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            worker_extension_cls=EXTENSION,
            enable_lora=lora_rank > 0,
            max_lora_rank=room_for(lora_rank),
            **device,
        )
        self._engine: Any = self._llm.llm_engine
        self._final: Any = importlib.import_module("vllm.sampling_params").RequestOutputKind
        self.version, self.max_length, self.folder = 0, max_length, folder
        self._probe = Probe.of(tokenizer)
        self._running: set[int] = set()
        self._seed, self._ends = 0, sorted(ends)
        self._takes_adapters, self._adapters = lora_rank > 0, None

    def seed(self, seed: int) -> None:
        self._seed = seed

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None:
        check_context(context, self.max_length)
        parameters = self._vllm.SamplingParams(
            **request_options(self._seed, key, context, sampling, self.max_length, self._ends),
            logprobs=0,
            output_kind=self._final.FINAL_ONLY,
        )
        prompt = {"prompt_token_ids": list(context)}
        self._engine.add_request(str(key), prompt, parameters, lora_request=self._adapters)
        self._running.add(key)

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]:
        finished: list[tuple[int, Completion]] = []
        while self._running and len(finished) < at_least:
            for output in self._engine.step():
                if output.finished:
                    key = int(output.request_id)
                    self._running.discard(key)
                    finished.append((key, self._completion(output.outputs[0])))
        return finished

    def release(self, key: int) -> None:
        if key in self._running:
            self._engine.abort_request([str(key)])
            self._running.discard(key)

    def publish(self, model: PreTrainedModel, version: int) -> dict[str, float]:
        if self._running:
            raise RuntimeError(f"{len(self._running)} requests are under way: collect them first")
        expected = self._probe.expected(model)
        self._wake(["weights"])
        if self._takes_adapters:
            folder = write_weights(model, self.folder, version, merged=False)
            self._adapters = self._loaded(folder)
        else:
            # The worker lives in this process: the tensors themselves are handed over.
            weights = distinct_weights(model)
            self._engine.collective_rpc("load_tensors", args=(weights.items(),))
            del weights
        self._wake(["kv_cache"])
        self._asleep = False
        self._engine.reset_prefix_cache()
        self.version = version
        return {"probe": self._probe.check(expected, {"vLLM": self._prompt_logprobs()})}

    def rest(self) -> None:
        """On a GPU, keys, values and weights are dropped, as the next publication brings others; of
        weights that only adapters are published for, a copy is kept in the host's memory."""
        if self._sleeps and not self._asleep:
            self._engine.sleep(1 if self._takes_adapters else 2)
            self._asleep = True

    def _wake(self, tags: list[str]) -> None:
        if self._asleep:
            torch.cuda.empty_cache()  # what the learner's passes left, which the engine needs now
            self._engine.wake_up(tags)

    def _loaded(self, folder: Path) -> Any:
        """What requests say to be answered with the adapters in `folder`. vLLM knows adapters by
        number, and keeps those of a number that it has loaded."""
        request: Any = importlib.import_module("vllm.lora.request").LoRARequest
        number = self._adapters.lora_int_id + 1 if self._adapters else 1
        adapters = request(ADAPTERS, number, str(folder))
        self._engine.add_lora(adapters)
        return adapters

    def _prompt_logprobs(self) -> list[float]:
        parameters = self._vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
        prompt = {"prompt_token_ids": self._probe.ids}
        [output] = self._llm.generate(
            prompt, parameters, use_tqdm=False, lora_request=self._adapters
        )
        ids, found = self._probe.ids[1:], output.prompt_logprobs[1:]
        return [place[token].logprob for token, place in zip(ids, found, strict=True)]

    def _completion(self, output: Any) -> Completion:
        ids = list(output.token_ids)
        logprobs = [place[token].logprob for token, place in zip(ids, output.logprobs, strict=True)]
        finish = "stop" if output.finish_reason == "stop" else "length"
        return Completion(ids, logprobs, finish, self.version)


def room_for(rank: int) -> int:
    """The least rank that vLLM makes room for and that is not below `rank`."""
    return next((each for each in RANKS if each >= rank), rank)


def check_context(context: Sequence[int], max_length: int) -> None:
    """Raises ValueError if a context is empty or fills the window."""
    if not context or len(context) >= max_length:
        raise ValueError(
            f"a context of {len(context)} ids: expected 1 to max_length - 1, which is"
            f" {max_length - 1}"
        )


def request_options(
    seed: int,
    key: int,
    context: Sequence[int],
    sampling: Sampling,
    max_length: int,
    ends: Sequence[int],
) -> dict[str, Any]:
    """vLLM's names for a `Sampling`, the same in this process and over HTTP."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": min(sampling.max_new_tokens, max_length - len(context)),
        "stop": list(sampling.stop),
        "stop_token_ids": list(ends),
        "include_stop_str_in_output": True,
        "seed": random.Random(f"{seed} {key} {len(context)}").getrandbits(31),
    }
