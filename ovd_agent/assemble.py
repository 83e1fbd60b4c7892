"""Config to the parts of a run: scenario, student, policy, learner."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.config import TrainConfig
from ovd_agent.learner.checkpoint import latest_checkpoint
from ovd_agent.learner.learner import Learner
from ovd_agent.models import compute_dtype, load_model
from ovd_agent.policies.torch import TorchPolicy
from ovd_agent.rollout import Rollout
from ovd_envs.episode import Task
from ovd_envs.make import make_scenario


@dataclass(slots=True)
class Parts:
    """Everything that a run is made of."""

    tasks: Sequence[Task]
    held_out: Sequence[Task]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learner: Learner
    policy: TorchPolicy
    rollout: Rollout
    precision: str

    def publish(self) -> None:
        """Give the learner's weights to the policy."""
        if self.policy.model is not self.model:
            weights = self.model.state_dict()
            self.policy.model.load_state_dict(weights)  # casts as it copies
        self.policy.weights_changed(self.learner.steps)


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
    # Where the processor multiplies in bfloat16, the policy decodes from a copy half as large.
    played = model if dtype == torch.float32 else _moved(copy.deepcopy(model), dtype)
    wants_reference = max(config.ovd.kl, config.grpo.kl) > 0
    learner = Learner(
        model,
        config.learner,
        reference=copy.deepcopy(model) if wants_reference else None,
        temperature=config.rollout.temperature,
        autocast=dtype != torch.float32,
    )
    policy = TorchPolicy(
        played, tokenizer, slots=config.rollout.slots, max_length=config.rollout.max_length
    )
    rollout = Rollout(
        scenario,
        policy,
        tokenizer,
        slots=config.rollout.slots,
        max_length=config.rollout.max_length,
        max_new_tokens=config.rollout.max_new_tokens,
    )
    precision = f"float32 weights, {str(dtype).removeprefix('torch.')} on {device.type}"
    held = held_out[: config.eval_count]
    return Parts(tasks, held, model, tokenizer, learner, policy, rollout, precision)


def student_path(name: str) -> str:
    """The newest checkpoint where `name` is the folder of a training run, else `name`."""
    checkpoints = Path(name) / "checkpoints"
    return str(latest_checkpoint(checkpoints)) if checkpoints.is_dir() else name


def _moved(model: PreTrainedModel, target: torch.device | torch.dtype) -> PreTrainedModel:
    move: Any = model.to  # whose annotations in transformers hide those of torch
    return move(target)
