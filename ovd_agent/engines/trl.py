"""TRL's GRPOTrainer, which updates by our rows: any algorithm, under accelerate, DDP or FSDP2.

TRL brings the loop, sharding, optimiser, checkpoints and loggers; a `RowSource` plays, asks the
teacher and says what each token contributes. Two methods of GRPOTrainer are overridden, so the
rollout, the rewards and the loss of TRL are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from ovd_agent.engines import TRLOptions
from ovd_agent.engines.base import (
    ROWS,
    LossByRows,
    Pass,
    RowSource,
    gathered,
    loss_by_rows,
    passes,
)
from ovd_agent.learner.batches import MicroBatch
from ovd_agent.learner.learner import LearnerConfig, switch_off_dropout
from ovd_agent.learner.meter import StepMeter, of_ranks, of_update
from ovd_agent.learner.rows import Counts, TrainingRow
from ovd_envs.errors import OptionError

_PER_DEVICE = 2
"""Of no consequence, since the rows of a pass are ours; TRL wants groups of at least two."""
OnUpdate = Callable[[int, dict[str, float]], None]


def trl_arguments(
    folder: str, config: LearnerConfig, options: TRLOptions, updates: int, **others: Any
) -> GRPOConfig:
    """The arguments of a `RowTrainer` that takes the optimiser steps of our learner; `others` are
    any of GRPOConfig's own, such as `save_steps` or `report_to`."""
    steps = config.minibatches
    usual: dict[str, Any] = {
        "per_device_train_batch_size": _PER_DEVICE,
        "num_generations": _PER_DEVICE,
        "gradient_accumulation_steps": options.passes_per_step,
        "steps_per_generation": options.passes_per_step * steps,
        "max_steps": updates * steps,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "max_grad_norm": config.max_grad_norm,
        "activation_checkpointing": config.gradient_checkpointing,
        "beta": 0.0,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "use_cpu": not torch.cuda.is_available(),
        "save_steps": steps,
        "save_total_limit": 2,
        "logging_steps": steps,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return GRPOConfig(output_dir=folder, **usual | others)


class RowTrainer(GRPOTrainer):
    """A GRPOTrainer whose batches are rows of a `RowSource` and whose loss is that of the rows.

    Args:
        model: The student, with float32 weights. Where it will be sharded, the source plays with
            another model, which `full_weights` fills.
        source: What makes the rows of an update. Each process has its own, of its own share.
        loss: The components, and what they need.
        config: Learning rate, steps and divisor of the loss, as for our learner.
        args: Of `trl_arguments`.
        processing_class: The student's tokenizer.
        seed: Decides how rows are split among optimiser steps.
        on_update: Called in every process with the number of a finished update and its metrics.

    Raises OptionError for arguments with which a checkpoint would fall inside an update.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: RowSource,
        loss: LossByRows,
        config: LearnerConfig,
        args: GRPOConfig,
        processing_class: PreTrainedTokenizerBase,
        *,
        seed: int = 0,
        on_update: OnUpdate | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.source, self.loss, self.config = source, loss, config
        self.row_seed, self.on_update = seed, on_update
        if int(args.save_steps) % config.minibatches:
            raise OptionError(
                f"save_steps={args.save_steps}: expected a multiple of minibatches="
                f"{config.minibatches}, since an update is not resumed in its middle"
            )
        self._passes: list[Pass] = []
        self._steps: list[dict[str, float]] = []
        self._norm = 0.0
        super().__init__(
            model=model,
            reward_funcs=_no_reward,
            args=args,
            train_dataset=_counting(args),
            processing_class=processing_class,
            callbacks=[*callbacks, _Guard(self)],
        )
        switch_off_dropout(model)
        loss_by_rows(model, loss)
        self._meter = StepMeter(loss.losses, self.accelerator.device)

    @property
    def update(self) -> int:
        """The update that is being made, counted from 0."""
        return self.state.global_step // self.config.minibatches

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """The learning rate of our learner."""
        chosen = cast(torch.optim.Optimizer, optimizer or self.optimizer)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            chosen,
            lambda step: (
                self.config.rate(step, step / num_training_steps) / self.config.learning_rate
            ),
        )
        return self.lr_scheduler

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The next pass; the rows of the update are collected before its first."""
        if not self._passes:
            model = cast(PreTrainedModel, self.model)
            model.eval()  # no checkpointing while it plays
            self.source.publish(model, self.state.global_step)
            rows = self.source.collect(self.update)
            model.train()
            self._passes = self._split(rows)
        return self._passes.pop(0)

    def _split(self, rows: Sequence[TrainingRow]) -> list[Pass]:
        steps = passes(
            rows,
            self.loss.losses,
            self.config.loss_per,
            steps=self.config.minibatches,
            passes_per_step=self.args.gradient_accumulation_steps,
            seed=self.row_seed + self.update,
            whole=_summed,
        )
        return [each for step in steps for each in step]

    def _compute_loss(self, model: Any, inputs: Pass) -> Tensor:
        batch: MicroBatch = self.loss.batch(inputs, self.accelerator.device)
        parts, *measured = model(**{ROWS: batch})
        if batch.rows:
            self._meter.add(batch, parts, *measured)
        # The gradients of processes are averaged, and ours is a part of one sum.
        return parts.sum() * self.accelerator.num_processes

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._norm = float(_whole(found))
        return found

    def finish_step(self) -> dict[str, float]:
        """Metrics of the optimiser step whose gradient is complete, those of all processes."""
        norm = self._norm
        mine = {**self._meter.metrics(), "grad_norm": norm, "optimizer_steps": float(norm > 0)}
        self._meter = StepMeter(self.loss.losses, self.accelerator.device)
        found = of_ranks(self.loss.losses, gathered(mine))
        self._steps.append(found)
        return found

    def finish_update(self, update: int) -> None:
        metrics = of_update(self.loss.losses, self._steps)
        self._steps = []
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)
        if self.on_update is not None:
            self.on_update(update, metrics)


class _Guard(TrainerCallback):
    """Stops before a step that is not finite, and skips one without a gradient: AdamW would still
    move the weights by momentum and decay."""

    def __init__(self, trainer: RowTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = self._trainer.finish_step()
        norm = metrics["grad_norm"]
        if not (math.isfinite(norm) and math.isfinite(metrics["loss"])):
            raise FloatingPointError(
                f"optimiser step {state.global_step + 1} was not made: its loss is"
                f" {metrics['loss']} and its gradient norm {norm}; look at the advantages, then"
                " lower the learning rate"
            )
        if not norm:
            kwargs["model"].zero_grad(set_to_none=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._trainer.config.minibatches == 0:
            self._trainer.finish_update(self._trainer.update - 1)


def _summed(mine: list[Counts]) -> list[Counts]:
    """Counts of all processes from those of this one."""
    return [
        Counts(sum(each.tokens for each in step), sum(each.rows for each in step))
        for step in zip(*gathered(mine), strict=True)
    ]


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _counting(args: GRPOConfig) -> Dataset:
    """A dataset that only counts steps: every batch of it stands for one pass."""
    batch, generations = cast(int, args.generation_batch_size), cast(int, args.steps_per_generation)
    size = batch // cast(int, args.num_generations)
    updates = -(-args.max_steps * args.gradient_accumulation_steps // generations)
    return Dataset.from_dict({"prompt": ["-"] * (size * updates)})


def _no_reward(completions: list[str], **_: Any) -> list[float | None]:
    raise AssertionError("rewards come from the rows")
