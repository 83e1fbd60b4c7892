"""Policies: token ids in, sampled ids and their log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_envs.errors import OVDError


class PolicyUnavailable(OVDError, RuntimeError):
    """No engine answers, or one serves other weights than the learner's."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy decoding.

    `top_p` below 1 keeps the most likely tokens that together have that probability. It changes
    the policy that samples, and the log-probabilities say so: train with 1.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected more than 0 and at most 1")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: expected at least 1")


@dataclass(slots=True)
class Completion:
    """Sampled `ids` with one log-probability each, under the sampling temperature and top_p.

    `finish`: "stop" at a stop string or the end token, "length" at `max_new_tokens` or at the
    end of the context window. `version` is that of the weights.
    """

    ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    version: int


class Policy(Protocol):
    """Continuous generation: submit contexts at any time, collect completions as they finish.

    A `key` names an episode. Its context only ever grows, so a policy may keep what it computed
    for the earlier turns until `release`.
    """

    version: int

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None: ...

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]: ...

    def release(self, key: int) -> None: ...


class TrainedPolicy(Policy, Protocol):
    """A policy that follows a learner."""

    def seed(self, seed: int) -> None:
        """Restart the random numbers; the trainer does so each update, which makes it resumable."""
        ...

    def publish(self, model: PreTrainedModel, version: int) -> dict[str, float]:
        """Load the weights of `model` and drop what was computed with older ones.

        Returns figures for the log. Raises PolicyUnavailable if other weights are served."""
        ...

    def rest(self) -> None:
        """Give back what memory it can until the next publication; nothing is sampled before."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a run tells the policy that it builds.

    `student` is its model's name or folder, `folder` where weights pass through on their way to an
    engine. `lora_rank` is 0 unless adapters alone are published.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    student: str
    folder: Path
    slots: int
    max_length: int
    dtype: torch.dtype
    lora_rank: int
