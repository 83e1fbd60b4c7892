"""What the algorithms share whose teacher has token probabilities."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovd_agent.algorithms.base import Needs
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER
from ovd_envs.errors import OptionError


def check_sampled(samples: int, first_tokens: int = 0) -> None:
    """Raise OptionError where there would be nothing to teach."""
    if samples < 1:
        raise OptionError(f"samples={samples}: expected at least 1")
    if first_tokens < 0:
        raise OptionError(f"first_tokens={first_tokens}: expected at least 0")


@dataclass(frozen=True)
class OfTokens(ABC):
    """An algorithm with a teacher of tokens."""

    teacher_model: str = ""
    """The model that teaches, as `--student` takes it, with the student's tokenizer; or one that
    vLLM serves, MODEL@http://HOST:PORT, where no whole distribution is read."""
    samples: int = 2
    """Student trajectories per task."""
    closest: float = 1.0
    """Learn from this share of an update's tasks only: those in which student and teacher share
    most of their 16 likeliest tokens (arXiv 2604.13016). What is left out was played for nothing;
    1: all."""

    def __post_init__(self) -> None:
        check_sampled(self.samples)
        if not 0 < self.closest <= 1:
            raise OptionError(f"closest={self.closest}: expected a share in (0, 1]")

    @property
    @abstractmethod
    def needs(self) -> Needs: ...

    @property
    @abstractmethod
    def losses(self) -> Sequence[LossComponent]: ...

    def wants(self, where: str, **more: Any) -> Wants:
        """Of the teacher, where the stream `where` is not 0."""
        return Wants(where, self.teacher_model, overlap=self.closest < 1, **more)

    def check(self, score_levels: int) -> None:
        """Raise OptionError where no teacher of tokens is named."""
        if not self.teacher_model:
            raise OptionError(
                "algorithm.teacher_model is not given: name the model whose token probabilities"
                " teach, as --student takes it (a checkpoint's or run's folder, or an id on the"
                " Hub)"
            )
        if self.closest < 1 and self.needs.references[TEACHER].served:
            raise OptionError(
                "algorithm.closest compares whole distributions, which a server does not send: give"
                " a model in this process as teacher_model"
            )

    def measured(self, rows: Sequence[TrainingRow]) -> None:
        """Take the weights off the tasks that are not among the `closest`."""
        if self.closest == 1:
            return
        overlaps: dict[str, list[float]] = {}
        for row in rows:
            if not math.isnan(row.overlap):
                overlaps.setdefault(row.group, []).append(row.overlap)
        order = sorted(overlaps, key=lambda group: -sum(overlaps[group]) / len(overlaps[group]))
        kept = set(order[: math.ceil(self.closest * len(order))])
        for row in rows:
            if row.group not in kept:
                for name in {loss.weight for loss in self.losses} & row.streams.keys():
                    row.streams[name][:] = 0.0
