"""Training rows in, optimiser steps out."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch, micro_batches
from ovd_agent.learner.logprobs import LOGIT_BUDGET, check_head, token_logprobs, vocabulary_size
from ovd_agent.learner.losses import Coefficients, ratio_metrics, row_loss
from ovd_agent.learner.rows import TrainingRow, denominator
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class LearnerConfig:
    """What an update does with the rows it is given."""

    learning_rate: float = 1e-4
    """Of AdamW, after the warm-up. Where few or no demonstrations hold a student, as in GRPO, a
    fifth of this learns more, and forgets less (docs/results.md)."""
    warmup_steps: int = 4
    """Optimiser steps over which the learning rate rises linearly."""
    decay_steps: int = 0
    """Optimiser steps over which it falls linearly to a tenth and stays there; 0: never."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    clip_low: float = 0.2
    """PPO's clip of the ratio from below: 1 - clip_low."""
    clip_high: float = 0.2
    """And from above: 1 + clip_high."""
    max_ratio: float = 10.0
    """A larger ratio counts as this (truncated importance sampling, arXiv 1802.01561)."""
    loss_per: Literal["tokens", "rows"] = "tokens"
    """The loss of an optimiser step is divided by its trained tokens, or by its rows."""
    minibatches: int = 4
    """Optimiser steps an update; its rows, shuffled, are split among them."""
    token_budget: int = 1024
    """Padded tokens of one forward pass: bounds memory, changes no result."""
    logit_budget: int = LOGIT_BUDGET
    """Logits held at a time: bounds memory, changes no result."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third slower."""
    share_prefix: bool = True
    """Compute what the rows of a forward pass have in common once: changes no result."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": (self.learning_rate > 0 and math.isfinite(self.learning_rate), "> 0"),
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "decay_steps": (self.decay_steps >= 0, "at least 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            "max_grad_norm": (self.max_grad_norm > 0, "> 0"),
            "clip_low": (0 <= self.clip_low <= 1, "in [0, 1]"),
            "clip_high": (self.clip_high >= 0, "at least 0"),
            "max_ratio": (self.max_ratio >= 1, "at least 1"),
            "minibatches": (self.minibatches >= 1, "at least 1"),
            "token_budget": (self.token_budget >= 1, "at least 1"),
            "logit_budget": (self.logit_budget >= 1, "at least 1"),
        }
        for name, (valid, expected) in rules.items():
            if not valid:
                raise OptionError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step `step`, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = max(0.1, 1 - step / self.decay_steps) if self.decay_steps else 1.0
        return self.learning_rate * rise * fall


class Learner:
    """Trains one causal language model, whose weights are float32, in place; dropout is off.

    With `autocast`, forward passes multiply in bfloat16. `reference` is the frozen model that
    `TrainingRow.kl` pulls towards. `temperature` is the one the rows were sampled at.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: LearnerConfig,
        *,
        reference: PreTrainedModel | None = None,
        temperature: float = 1.0,
        autocast: bool = False,
    ) -> None:
        if reference is model:
            raise OptionError("reference must be a copy of the model, not the model itself")
        self.model = model.eval()
        self.config = config
        self.reference = None if reference is None else reference.eval()
        self.temperature = temperature
        self.autocast = autocast
        self.steps = 0
        check_head(model)
        if config.gradient_checkpointing:
            _enable_checkpointing(model)
        self._trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def update(self, rows: Sequence[TrainingRow], seed: int = 0) -> dict[str, float]:
        """Take up to `minibatches` optimiser steps over the rows in a random order that `seed`
        decides; return their metrics. Without rows it takes none. `gap` is that of the first
        step: of samples by the same weights, so what the engine computes otherwise.

        Raises ValueError on a bad row, and FloatingPointError when loss or gradient of a step is
        not finite; that step then leaves the weights as they were.
        """
        self._check(rows)
        order = list(rows)
        random.Random(seed).shuffle(order)
        parts = min(self.config.minibatches, len(order))
        steps = [self._step(order[part::parts]) for part in range(parts)]
        # Before the first step the weights are those that sampled.
        return {**_merge(steps), "gap": steps[0]["gap"] if steps else 0.0}

    def backward(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Fill the gradients of one optimiser step without taking it; return its metrics."""
        config = self.config
        self.model.zero_grad(set_to_none=True)
        # One denominator for the whole step, so that micro-batches cannot change the loss.
        divisor = denominator(rows, config.loss_per)
        losses = torch.zeros(4, dtype=torch.float64)
        size, entropy = 0, 0.0
        logs: list[Tensor] = []
        tokens: list[Coefficients] = []
        batches = micro_batches(
            rows,
            divisor,
            config.token_budget,
            self.model.device,
            share_prefix=config.share_prefix and not config.gradient_checkpointing,
        )
        for batch in batches:
            logprobs, entropies = self._logprobs(self.model, batch)
            parts = row_loss(
                logprobs,
                batch.tokens,
                self._reference(batch),
                config.clip_low,
                config.clip_high,
                config.max_ratio,
            )
            parts.sum().backward()
            losses += parts.detach().double().cpu()
            size += batch.size
            entropy += float(entropies.sum())
            logs.append(logprobs.detach())
            tokens.append(batch.tokens)
        pg, ce, kl, shaped = losses.tolist()
        trained = sum(map(len, logs))
        return {
            "loss": pg + ce + kl + shaped,
            "pg_loss": pg,
            "ce_loss": ce + shaped,
            "kl_loss": kl,
            **ratio_metrics(*_joined(logs, tokens), config.clip_low, config.clip_high),
            "entropy": entropy / max(1, trained),
            "trained_tokens": float(trained),
            "computed_tokens": float(size),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The step count and the moments, keyed by parameter name: a flat dict of tensors."""
        state = {"steps": torch.tensor(self.steps)}
        for name, parameter in self._trained.items():
            moments = cast(dict[str, Tensor], self._optimizer.state.get(parameter, {}))
            state |= {f"{name}:{moment}": value for moment, value in moments.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`. Raises ValueError naming a parameter that does not match."""
        moments: dict[str, dict[str, Tensor]] = {}
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
            moments.setdefault(name, {})[moment] = value.to(parameter.device, copy=True)
        self._optimizer.state.clear()
        self._optimizer.state.update({self._trained[name]: m for name, m in moments.items()})
        self.steps = int(state["steps"])

    def _step(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        metrics = self.backward(rows)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self.config.max_grad_norm)
        )
        if not (math.isfinite(norm) and math.isfinite(metrics["loss"])):
            self.model.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"optimiser step {self.steps + 1} was not made: its loss is {metrics['loss']} and "
                f"its gradient norm {norm}; look at the advantages, then lower the learning rate"
            )
        # Without a gradient, AdamW would still move the weights by momentum and decay.
        if norm:
            self._optimizer.param_groups[0]["lr"] = self.config.rate(self.steps)
            self._optimizer.step()
            self.steps += 1
        self.model.zero_grad(set_to_none=True)
        return {**metrics, "grad_norm": norm, "optimizer_steps": float(norm > 0)}

    def _logprobs(self, model: PreTrainedModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        with self._precision():
            return token_logprobs(model, batch, self.temperature, self.config.logit_budget)

    def _precision(self) -> AbstractContextManager[object]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)

    @torch.no_grad()
    def _reference(self, batch: MicroBatch) -> Tensor | None:
        if self.reference is None or not batch.tokens.kl.any():
            return None
        return self._logprobs(self.reference, batch)[0]

    def _check(self, rows: Sequence[TrainingRow]) -> None:
        vocabulary = vocabulary_size(self.model)
        for row in rows:
            row.check()
            if row.ids and not 0 <= min(row.ids) <= max(row.ids) < vocabulary:
                raise ValueError(
                    f"a row of group {row.group!r} has an id outside 0..{vocabulary - 1}, the "
                    "model's vocabulary: was it made with the tokenizer of another model?"
                )
            if self.reference is None and row.kl.any():
                raise ValueError(
                    f"a row of group {row.group!r} weighs the KL to a reference, but the learner "
                    "has none: give Learner a reference model, or set kl to 0"
                )


def _enable_checkpointing(model: PreTrainedModel) -> None:
    """transformers checkpoints in training mode only, where dropout would be on."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - a plain number of theirs


def _joined(logs: list[Tensor], tokens: list[Coefficients]) -> tuple[Tensor, Coefficients]:
    if not logs:
        nothing = torch.zeros(0)
        return nothing, Coefficients(*[nothing] * 5)
    names = ("pg", "ce", "kl", "shaped", "behaviour")
    streams = (torch.cat([getattr(each, name) for each in tokens]) for name in names)
    return torch.cat(logs), Coefficients(*streams)


_TOTALS = ("trained_tokens", "computed_tokens", "optimizer_steps")
_REDUCE = {**dict.fromkeys(_TOTALS, sum), "ratio_min": min, "ratio_max": max, "grad_norm": max}


def _merge(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of an update from those of its optimiser steps: means, totals and extremes."""
    if not steps:
        return dict.fromkeys(_TOTALS, 0.0)
    return {name: float(_REDUCE.get(name, fmean)(s[name] for s in steps)) for name in steps[0]}
