"""Serve a student or a teacher by vLLM, on loopback.

    ovd serve-model --model smollm2 --role student --port 8001
    ovd serve-model --model qwen2.5-coder-1.5b --role teacher --port 8002

It needs vLLM: `make setup-vllm` builds .venv-vllm, which has an `ovd` of its own.

A student takes new weights from `ovd train --policy http://127.0.0.1:8001`; for that the
server opens vLLM's development routes, which anyone who reaches the port can call. A teacher is
any OpenAI-compatible server: `--teacher openai:teacher@http://127.0.0.1:8002/v1`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from ovd_agent.models import checkpoint_path, compute_dtype
from ovd_agent.policies.vllm_policy import CPU_CACHE_GIB, EXTENSION, room_for
from ovd_envs.errors import OptionError

FEW_CORES = 4
"""Where there are no more, the model runs on all: vLLM would leave one to what hardly needs it."""


@dataclass(frozen=True)
class Options:
    """Serve a model."""

    model: str = "smollm2"
    """A name, folder or id on the Hub that `ovd train --student` takes too."""
    role: Literal["student", "teacher"] = "student"
    """Also the name under which it is served."""
    port: int = 8001
    host: str = "127.0.0.1"
    max_length: int = 4096
    """Tokens of the longest context."""
    slots: int = 128
    """Sequences at once."""
    tensor_parallel: int = 1
    """GPUs over which one copy of the model is split."""
    data_parallel: int = 1
    """Copies of the model behind one address; a student has one a server."""
    lora_rank: int = 0
    """Of the adapters that a student takes (`ovd train --lora.no-merge`); 0: it takes weights."""
    dtype: str | None = None
    """By default bfloat16 where the processor multiplies in it, else float32."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "data_parallel"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.role == "student" and self.data_parallel > 1:
            raise OptionError(
                "data_parallel: weights reach one copy of a student; start several servers, and"
                " give all their addresses to --policy"
            )


def command(options: Options) -> list[str]:
    """The command of vLLM's server."""
    cuda = torch.cuda.is_available()
    dtype = options.dtype or str(compute_dtype(torch.device("cuda" if cuda else "cpu")))
    # Not `vllm serve`, which in vllm-cpu looks for the metadata of another package.
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", checkpoint_path(options.model), "--served-model-name", options.role]
    words += ["--host", options.host, "--port", str(options.port)]
    words += ["--dtype", dtype.removeprefix("torch.")]
    words += ["--max-model-len", str(options.max_length), "--max-num-seqs", str(options.slots)]
    # A repository's own top_k or repetition penalty would make another policy of the student.
    words += ["--generation-config", "vllm", "--enable-prefix-caching"]
    if options.role == "student":
        words += ["--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION]
    for name in ("tensor_parallel", "data_parallel"):
        if (count := getattr(options, name)) > 1:
            words += [f"--{name.replace('_', '-')}-size", str(count)]
    if options.lora_rank:
        words += ["--enable-lora", "--max-lora-rank", str(room_for(options.lora_rank))]
    return words + ([] if cuda else ["--enforce-eager", *whole_prompts(options.max_length)])


def whole_prompts(max_length: int) -> list[str]:
    """Without a GPU vLLM 0.32 dies of a seeded request whose prompt it reads in parts ("CPU
    Generator does not use offset")."""
    return ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(max(4096, max_length))]


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    if importlib.util.find_spec("vllm") is None:
        raise OptionError("vLLM is not installed here: make setup-vllm, then .venv-vllm/bin/ovd")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
    if sys.platform == "linux" and len(cores := sorted(os.sched_getaffinity(0))) <= FEW_CORES:
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    if options.role == "student":
        os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    if options.lora_rank:
        os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    words = command(options)
    os.execv(words[0], words)
