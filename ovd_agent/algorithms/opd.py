"""OPD: on-policy distillation from a single sample (reverse KL, as MiniLLM, arXiv 2306.08543).

The student plays; a token's advantage is log p_teacher - log p of the token that it sampled. In
expectation over the student's tokens that is the gradient of KL(student || teacher) at the contexts
that the student visits. The teacher must have the student's tokenizer; it reads each trajectory
once, and one number a token is kept of it. The environment's reward is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.rows import distilled_row
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER, Distillation
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OPD:
    """Reverse KL to a teacher of tokens, by the log-probability of the sampled token."""

    teacher_model: str = ""
    """The model that teaches, as `--student` takes it; with the student's tokenizer."""
    samples: int = 2
    """Student trajectories a task."""
    first_tokens: int = 0
    """Only the student's first tokens of a trajectory are taught (arXiv 2602.15260); 0: all."""
    clip_low: float = 0.2
    """PPO's clip of the ratio to the policy that sampled, from below: 1 - clip_low."""
    clip_high: float = 0.2
    """And from above: 1 + clip_high."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.first_tokens < 0:
            raise OptionError("samples: expected at least 1; first_tokens: expected at least 0")

    @property
    def needs(self) -> Needs:
        return Needs(self.samples, {TEACHER: Wants(Distillation.weight, self.teacher_model)})

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (Distillation(self.clip_low, self.clip_high),)

    def check(self, score_levels: int) -> None:
        check_teacher(self.teacher_model)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        return [
            distilled_row(sample, Distillation.weight, self.first_tokens) for sample in group.played
        ]


def check_teacher(teacher: str) -> None:
    """Raise OptionError where no teacher of tokens is named."""
    if not teacher:
        raise OptionError(
            "algorithm.teacher_model is not given: name the model whose token probabilities teach,"
            " as --student takes it (a checkpoint's or run's folder, or an id on the Hub)"
        )
