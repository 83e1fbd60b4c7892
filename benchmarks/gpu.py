"""What a GPU makes of it, in one command and under six minutes: decoding, learning, memory, a run.

    python benchmarks/gpu.py                       # the shapes of SmolLM2 and of Qwen2.5-1.5B
    python benchmarks/gpu.py --shapes 7b --out /tmp/gpu.json
    python benchmarks/gpu.py --smoke               # all of it on a CPU, in tiny shapes

Models are random weights of a named shape, or the folder of a checkpoint; no network is needed.
Decoding is without stops, so that every row writes as many tokens: this policy, `generate` with a
static batch, and vLLM where it is installed. Learning is one optimiser step over the rows of
groups that share their prompt: this learner beside a padded loop with full logits, and eight rows
alone. Each part runs in a process of its own, and what does not fit says so in its line. The last
part is a run of two updates by `ovd train`.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from learner import padded_step
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.models import byte_tokenizer, compute_dtype, load_model
from ovd_agent.policies.attention import use_grouped_attention
from ovd_agent.policies.base import Sampling, TrainedPolicy
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.runs.logs import read_log

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = compute_dtype(DEVICE)
QWEN = {"vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096}
SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": partial(
        LlamaConfig,
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "135m": partial(
        LlamaConfig,
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
    "0.5b": partial(
        Qwen2Config,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        **QWEN,
    ),
    "1.5b": partial(
        Qwen2Config,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        **QWEN,
    ),
    "7b": partial(
        Qwen2Config,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        **{**QWEN, "vocab_size": 152064, "tie_word_embeddings": False},
    ),
}


@dataclass(frozen=True)
class Options:
    """Measure this device."""

    shapes: tuple[str, ...] = ("135m", "1.5b")
    """Names of shapes, or folders of checkpoints."""
    batches: tuple[int, ...] = (64, 256)
    """Texts that are decoded at once."""
    new_tokens: int = 200
    prompt: int = 200
    """Ids of a prompt."""
    groups: int = 16
    """Groups of four rows that the learner reads."""
    repetitions: int = 3
    run: bool = True
    """Also two updates of a run with SmolLM2."""
    smoke: bool = False
    """Everything in tiny shapes, to see that it works."""
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement, done in a process of its own."""

    name: str
    shape: str
    size: int
    options: Options


def main(options: Options) -> None:
    if options.smoke:
        options = Options(("tiny",), (4,), 8, 12, 2, 1, options.run, smoke=True, out=options.out)
    found: list[dict[str, Any]] = []
    for job in jobs(options):
        found.append(measured(job) if options.smoke else _apart(job))
        print(json.dumps(found[-1]), flush=True)
    record = {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "dtype": str(DTYPE),
        "results": found,
        "run": short_run("tiny" if options.shapes == ("tiny",) else "smollm2")
        if options.run
        else None,
        **surroundings(["torch", "transformers"]),
    }
    show(record)
    name = f"gpu-{record['device'].replace(' ', '-')}.json"
    write_record(options.out or RESULTS / name, record)


def _apart(job: Job) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (job,))


def jobs(options: Options) -> list[Job]:
    names = ["decode: ovd", "decode: generate"]
    if importlib.util.find_spec("vllm") is not None:
        names.append("decode: vLLM")
    found = [
        Job(name, shape, size, options)
        for shape in options.shapes
        for size in options.batches
        for name in names
    ]
    for shape in options.shapes:
        for name in ("learn: ovd", "learn: padded"):
            found += [Job(name, shape, 4 * options.groups, options), Job(name, shape, 8, options)]
    return found


def measured(job: Job) -> dict[str, Any]:
    """Tokens a second, seconds and memory of a job; or why there are none."""
    base = {"name": job.name, "shape": job.shape, "rows": job.size}
    torch.manual_seed(0)
    part, _, loop = job.name.partition(": ")
    try:
        measure = decoding if part == "decode" else learning
        tokens, seconds = measure(job, loop)
    except torch.OutOfMemoryError:
        return {**base, "failed": "out of memory"}
    best = min(seconds)
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else 0
    return {
        **base,
        "tokens_per_second": round(tokens / best, 1),
        "seconds": [round(each, 4) for each in seconds],
        "peak_gib": round(peak / 2**30, 2),
    }


def decoding(job: Job, loop: str) -> tuple[int, list[float]]:
    options = job.options
    generator = torch.Generator().manual_seed(0)
    model = built(job.shape, DTYPE)
    vocabulary = int(cast(Any, model.config).vocab_size)
    shape = (job.size, options.prompt)
    prompts = torch.randint(1, vocabulary, shape, generator=generator).tolist()
    if loop == "generate":
        write = partial(by_generate, model, prompts, options.new_tokens)
    else:
        length = options.prompt + options.new_tokens + 8
        make = vllm_policy if loop == "vLLM" else torch_policy
        policy = make(model, job.size, length)
        write = partial(by_policy, policy, prompts, options.new_tokens)
    write()  # kernels are compiled, graphs recorded
    seconds = [timed(write) for _ in range(options.repetitions)]
    return job.size * options.new_tokens, seconds


def built(shape: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a named shape with random weights, or of a checkpoint's folder."""
    if shape not in SHAPES:
        model, _ = load_model(shape, dtype)
    else:
        with DEVICE:
            build: Any = AutoModelForCausalLM.from_config
            model = build(SHAPES[shape](), dtype=dtype).eval()
        use_grouped_attention(model)
    move: Any = model.to
    return move(DEVICE)


def torch_policy(model: PreTrainedModel, slots: int, length: int) -> TrainedPolicy:
    return TorchPolicy(model, byte_tokenizer(), slots=slots, max_length=length)


def vllm_policy(model: PreTrainedModel, slots: int, length: int) -> TrainedPolicy:
    from ovd_agent.policies.vllm_policy import VllmPolicy

    folder = Path(tempfile.mkdtemp())
    model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    move: Any = model.to
    move("cpu")
    torch.cuda.empty_cache()
    return VllmPolicy(
        str(folder / "model"),
        byte_tokenizer(),
        folder=folder,
        slots=slots,
        max_length=length,
        dtype=DTYPE,
    )


def by_policy(policy: TrainedPolicy, prompts: list[list[int]], new_tokens: int) -> None:
    for key, prompt in enumerate(prompts):
        policy.submit(key, prompt, Sampling(max_new_tokens=new_tokens))
    policy.collect(at_least=len(prompts))
    for key in range(len(prompts)):
        policy.release(key)


@torch.inference_mode()
def by_generate(model: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> None:
    generator: Any = model
    generator.generate(
        input_ids=torch.tensor(prompts, device=DEVICE),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )


def learning(job: Job, loop: str) -> tuple[int, list[float]]:
    model = built(job.shape, torch.float32)
    rows = made_rows(job, int(cast(Any, model.config).vocab_size))
    config = LearnerConfig(minibatches=1, learning_rate=1e-6, warmup_steps=0)
    step: Callable[[], object]
    if loop == "ovd":
        learner = Learner(model, config, autocast=DTYPE is not torch.float32)
        step = partial(learner.update, rows)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        step = partial(padded_step, model, optimizer, rows, 64, DTYPE)
    step()
    seconds = [timed(step) for _ in range(job.options.repetitions)]
    return sum(len(row.ids) for row in rows), seconds


def made_rows(job: Job, vocabulary: int) -> list[TrainingRow]:
    """Groups of four rows that share their prompt, of different lengths, with advantages of both
    signs."""
    rng = np.random.default_rng(0)
    rows: list[TrainingRow] = []
    for index in range(job.size):
        if index % 4 == 0:
            prompt = rng.integers(1, vocabulary, job.options.prompt).tolist()
        more = int(rng.integers(job.options.new_tokens // 4, job.options.new_tokens))
        row = TrainingRow.blank(prompt + rng.integers(1, vocabulary, more).tolist(), "student")
        row.stream("pg")[len(prompt) :] = 1.0
        row.stream("advantage")[len(prompt) :] = (-1.0) ** index
        row.stream("behaviour")[len(prompt) :] = -np.log(vocabulary)
        rows.append(row)
    return rows


def timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def short_run(student: str) -> dict[str, Any]:
    """Two updates by the command that users give; seconds of the second."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["--student", student, "--updates", "2", "--eval-count", "16", "--out", str(out)]
        command = [sys.executable, "-m", "ovd_agent.cli.main", "train", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            return {"student": student, "failed": done.stderr.strip().splitlines()[-1]}
        line = read_log(out / "log.jsonl")[-1]
        names = ("seconds", "student_tokens", "computed_tokens", "peak_memory_mb")
        return {"student": student, **{name: line[name] for name in names}}


def show(record: dict[str, Any]) -> None:
    table = Table("part", "shape", "rows", "tokens/s", "ms", "GiB", title=record["device"])
    for each in record["results"]:
        cells = [each["name"], each["shape"], str(each["rows"])]
        if "failed" in each:
            table.add_row(*cells, each["failed"])
            continue
        seconds = f"{1e3 * min(each['seconds']):,.0f}"
        table.add_row(*cells, f"{each['tokens_per_second']:,.0f}", seconds, f"{each['peak_gib']}")
    Console().print(table)
    if record["run"] is not None:
        print(f"run: {json.dumps(record['run'])}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
