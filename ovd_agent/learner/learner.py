"""Training rows in, optimiser steps out."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import micro_batches
from ovd_agent.learner.components import batch_losses
from ovd_agent.learner.logprobs import LOGIT_BUDGET, check_head, vocabulary_size
from ovd_agent.learner.memory import fitting_budget
from ovd_agent.learner.meter import StepMeter, of_update
from ovd_agent.learner.rows import LossPer, TrainingRow, divisors
from ovd_agent.losses import loss_components
from ovd_agent.losses.base import LossComponent
from ovd_envs.errors import OptionError

AUTO = "auto"
_MASTER = "master"


@dataclass(frozen=True)
class LearnerConfig:
    """How the weights are updated."""

    learning_rate: float = 1e-4
    """Of AdamW, after the warm-up. With few or no demonstrations, as in GRPO, a fifth of this
    learns more and forgets less (docs/results.md)."""
    warmup_steps: int = 4
    """Optimiser steps over which the learning rate rises linearly."""
    decay: Literal["linear", "none"] = "linear"
    """"linear": the learning rate falls linearly over the run, to a tenth."""
    weight_decay: float = 0.0
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Clip the gradient of an optimiser step to this norm."""
    loss_per: LossPer = "tokens"
    """What the loss of an optimiser step is divided by: "tokens", its trained tokens; "rows", its
    rows; or "row_means", the rows and each row's own tokens, as in GRPO."""
    minibatches: int = 4
    """Optimiser steps per update. The shuffled rows are split among them."""
    token_budget: int | Literal["auto"] = AUTO
    """Padded tokens of one forward pass. Bounds memory, does not change results. "auto": on a GPU
    as many as fit into free memory, on a CPU 2,048."""
    logit_budget: int = LOGIT_BUDGET
    """Logits held at a time. Bounds memory, does not change results."""
    weights: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model's weights. With bfloat16 the optimiser updates float32 masters, and
    the policy needs no copy if it computes in bfloat16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third slower."""
    share_prefix: bool = True
    """Compute a prefix that the rows of a forward pass share only once. Does not change results."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": (self.learning_rate > 0 and math.isfinite(self.learning_rate), "> 0"),
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            "max_grad_norm": (self.max_grad_norm > 0, "> 0"),
            "minibatches": (self.minibatches >= 1, "at least 1"),
            "token_budget": (
                self.token_budget == AUTO or self.token_budget >= 1,
                'at least 1, or "auto"',
            ),
            "logit_budget": (self.logit_budget >= 1, "at least 1"),
        }
        for name, (valid, expected) in rules.items():
            if not valid:
                raise OptionError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def rate(self, step: int, done: float) -> float:
        """The learning rate of optimiser step `step`, counted from 0, when the share `done` of the
        run's updates lies behind."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = max(0.1, 1 - done) if self.decay == "linear" else 1.0
        return self.learning_rate * rise * fall


@dataclass(frozen=True, slots=True)
class Progress:
    """The share of a run's updates that lies behind an update when it begins and when it ends."""

    start: float = 0.0
    end: float = 0.0

    def at(self, part: int, parts: int) -> float:
        return self.start + (self.end - self.start) * part / parts


NOT_BEGUN = Progress()


class Learner:
    """Trains one causal language model in place; dropout is off. Weights in bfloat16
    get float32 masters: gradients are summed and steps are made there, and the weights are rounded
    from them.

    The loss of a step is the sum of its `losses`, by default every component of the table, and the
    learner knows none of them. `references` are frozen models whose distributions they may read.
    With `autocast`, forward passes multiply in bfloat16. `temperature` is the one the rows were
    sampled at.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LearnerConfig,
        *,
        losses: Sequence[LossComponent] | None = None,
        temperature: float = 1.0,
        autocast: bool = False,
        references: Mapping[str, PreTrainedModel] | None = None,
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.losses = tuple(loss_components() if losses is None else losses)
        self.temperature = temperature
        self.autocast = autocast
        self.references = {name: each.eval() for name, each in (references or {}).items()}
        self.steps = 0
        check_head(model)
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        self._trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._masters = {name: _master(weight) for name, weight in self._trained.items()}
        self._optimizer = torch.optim.AdamW(
            self._masters.values(),
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @cached_property
    def token_budget(self) -> int:
        """Tokens of one forward pass; chosen when first asked for, with the policy in memory."""
        config = self.config
        if config.token_budget != AUTO:
            return config.token_budget
        return fitting_budget(
            self.model,
            torch.bfloat16 if self.autocast else torch.float32,
            config.logit_budget,
            checkpointing=config.gradient_checkpointing,
        )

    def update(
        self, rows: Sequence[TrainingRow], seed: int = 0, progress: Progress = NOT_BEGUN
    ) -> dict[str, float]:
        """Take up to `minibatches` optimiser steps over the rows in a random order that `seed`
        decides; return their metrics. Without rows it takes none.

        Raises ValueError on a bad row, and FloatingPointError when loss or gradient of a step is
        not finite; that step then leaves the weights as they were.
        """
        self._check(rows)
        order = list(rows)
        random.Random(seed).shuffle(order)
        parts = min(self.config.minibatches, len(order))
        steps = [self._step(order[part::parts], progress.at(part, parts)) for part in range(parts)]
        return of_update(self.losses, steps)

    def backward(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Fill the gradients of one optimiser step without taking it; return its metrics."""
        config = self.config
        self._forget_gradients()
        meter = StepMeter(self.losses, self.model.device)
        batches = micro_batches(
            rows,
            self.losses,
            # Of the whole step, so that micro-batches cannot change the loss.
            divisors(rows, self.losses, config.loss_per),
            self.token_budget,
            self.model.device,
            share_prefix=config.share_prefix and not config.gradient_checkpointing,
        )
        for batch in batches:
            with self._precision():
                parts, measured = batch_losses(
                    self.model,
                    batch,
                    self.losses,
                    self.temperature,
                    config.logit_budget,
                    self.references,
                )
            parts.sum().backward()
            meter.add(batch, parts, measured.logprobs, measured.entropies, measured.compared)
        return meter.metrics()

    def state_dict(self) -> dict[str, Tensor]:
        """The step count, the moments and the masters, where there are any, keyed by parameter
        name: a flat dict of tensors."""
        state = {"steps": torch.tensor(self.steps)}
        for name, master in self._masters.items():
            moments = cast(dict[str, Tensor], self._optimizer.state.get(master, {}))
            state |= {f"{name}:{moment}": value for moment, value in moments.items()}
            if master is not self._trained[name]:
                state[f"{name}:{_MASTER}"] = master
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`. Raises ValueError naming a parameter that does not match."""
        moments: dict[str, dict[str, Tensor]] = {}
        masters: dict[str, Tensor] = {}
        for key, value in state.items():
            name, _, moment = key.rpartition(":")
            if not name:
                continue
            parameter = self._trained.get(name)
            if parameter is None:
                raise ValueError(f"the optimiser state has {name}, which this model does not train")
            if moment != "step" and value.shape != parameter.shape:
                raise ValueError(
                    f"the optimiser state of {name} has shape {tuple(value.shape)}, "
                    f"but the model's is {tuple(parameter.shape)}"
                )
            if moment == _MASTER:
                masters[name] = value
            else:
                moments.setdefault(name, {})[moment] = value.to(parameter.device, copy=True)
        expected = {name for name, each in self._masters.items() if each is not self._trained[name]}
        if masters.keys() != expected:
            raise ValueError(
                f"the optimiser state has float32 masters of {len(masters)} weights, but the model"
                f" needs {len(expected)}: it was saved with another learner.weights"
            )
        with torch.no_grad():
            for name, value in masters.items():
                self._masters[name].copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update({self._masters[name]: m for name, m in moments.items()})
        self.steps = int(state["steps"])

    def _step(self, rows: Sequence[TrainingRow], done: float) -> dict[str, float]:
        metrics = self.backward(rows)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self._masters.values(), self.config.max_grad_norm)
        )
        if not (math.isfinite(norm) and math.isfinite(metrics["loss"])):
            self._forget_gradients()
            raise FloatingPointError(
                f"optimiser step {self.steps + 1} was not made: its loss is {metrics['loss']} and "
                f"its gradient norm {norm}; look at the advantages, then lower the learning rate"
            )
        # Without a gradient, AdamW would still move the weights by momentum and decay.
        if norm:
            self._optimizer.param_groups[0]["lr"] = self.config.rate(self.steps, done)
            self._optimizer.step()
            self.steps += 1
            self._round_weights()
        self._forget_gradients()
        return {**metrics, "grad_norm": norm, "optimizer_steps": float(norm > 0)}

    @torch.no_grad()
    def _round_weights(self) -> None:
        for name, master in self._masters.items():
            if master is not self._trained[name]:
                self._trained[name].copy_(master)

    def _forget_gradients(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self._optimizer.zero_grad(set_to_none=True)

    def _precision(self) -> AbstractContextManager[object]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)

    def _check(self, rows: Sequence[TrainingRow]) -> None:
        vocabulary = vocabulary_size(self.model)
        for row in rows:
            row.check(self.losses)
            if row.ids and not 0 <= min(row.ids) <= max(row.ids) < vocabulary:
                raise ValueError(
                    f"a row of group {row.group!r} has an id outside 0..{vocabulary - 1}, the "
                    "model's vocabulary: was it made with the tokenizer of another model?"
                )


def _master(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """The float32 weights that the optimiser steps: these, or a copy that gets their gradients,
    each as soon as a backward pass has it."""
    if weight.dtype.itemsize >= torch.float32.itemsize:
        return weight
    master = torch.nn.Parameter(weight.detach().float())

    def take_gradient(of: Tensor) -> None:
        assert of.grad is not None
        gradient = of.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        of.grad = None

    weight.register_post_accumulate_grad_hook(take_gradient)
    return master


def enable_checkpointing(model: PreTrainedModel) -> None:
    """transformers checkpoints in training mode only, where dropout would be on."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()
    model.train()
    switch_off_dropout(model)


def switch_off_dropout(model: PreTrainedModel) -> None:
    """For a model in training mode: the rows were sampled without it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - a plain number of theirs
