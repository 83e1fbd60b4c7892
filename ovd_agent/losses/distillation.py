"""On-policy distillation as a policy gradient: the teacher's log-probability rewards a token.

The expected gradient, over what the student samples, is that of the reverse divergence
KL(student || teacher) at the contexts that the student visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovd_agent.learner.rows import BEHAVIOUR, TrainingRow
from ovd_agent.losses.base import Tokens
from ovd_agent.losses.kl import REFERENCE_LOGPROBS
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_envs.errors import OptionError

TEACHER = "teacher"
"""The reference: a frozen model with the student's tokenizer."""
TEACHER_LOGPROBS = f"logprobs_{TEACHER}"


@dataclass(frozen=True)
class Distillation(PolicyGradient):
    """- sum of distill · min(ratio · A, clip(ratio) · A), A = log p_teacher - log p of the token
    that was sampled, without a gradient. With `only_praise` a negative A counts 0."""

    name = "distill"
    weight = "distill"
    streams = (TEACHER_LOGPROBS, BEHAVIOUR)
    required = (TEACHER_LOGPROBS,)
    reduce = {}  # noqa: RUF012

    only_praise: bool = False

    def trained(self, row: TrainingRow) -> NDArray[np.bool_]:
        return row.has(self.weight)

    def weighted(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Weight times advantage, and the behaviour log-probabilities."""
        weight = tokens.stream(self.weight)
        # Elsewhere nothing is known, and an infinity times weight 0 would be NaN.
        advantage = self.advantage(tokens).to(weight.dtype)
        if self.only_praise:
            advantage = advantage.clamp(min=0)
        advantage = torch.where(weight != 0, advantage, 0.0)
        behaviour = torch.where(weight != 0, tokens.stream(BEHAVIOUR), torch.nan)
        return weight * advantage, behaviour

    def advantage(self, tokens: Tokens) -> Tensor:
        return tokens.stream(TEACHER_LOGPROBS) - tokens.logprobs.detach()

    def metrics(self, tokens: Tokens) -> dict[str, float]:
        """`teacher_kl`: the mean of log p - log p_teacher: an estimate of the reverse KL."""
        weighted = tokens.streams[self.weight] != 0
        if not weighted.any():
            return {"teacher_kl": 0.0}
        gaps = tokens.logprobs.detach() - tokens.stream(TEACHER_LOGPROBS)
        return {"teacher_kl": float(gaps[weighted].mean())}


@dataclass(frozen=True)
class ScaledDistillation(Distillation):
    """The same with A = scale · (log p_teacher - log p_start) - (log p - log p_start), where start
    is the student as the run began (G-OPD, arXiv 2602.12125)."""

    streams = (TEACHER_LOGPROBS, REFERENCE_LOGPROBS, BEHAVIOUR)
    required = (TEACHER_LOGPROBS, REFERENCE_LOGPROBS)

    scale: float = 1.0

    def advantage(self, tokens: Tokens) -> Tensor:
        teacher, own = tokens.stream(TEACHER_LOGPROBS), tokens.logprobs.detach()
        start = tokens.stream(REFERENCE_LOGPROBS)
        return self.scale * (teacher - start) - (own - start)


@dataclass(frozen=True)
class BaselinedDistillation(Distillation):
    """The same with a control variate (vOPD, arXiv 2605.07865): the advantage less its own mean
    over the student's distribution, -KL(student || teacher) at this context.

    A baseline that does not depend on the sampled token leaves the expected gradient as it is. It
    lowers the variance where the vocabulary is large; that is no theorem, since the mean is not the
    best baseline of every context (tests/agent/test_token_distillation.py). With `k` the mean is
    over the student's k most likely tokens, both distributions renormalised inside them; that is no
    less unbiased.
    """

    streams = (BEHAVIOUR,)
    required = ()
    reads_distribution = True
    reads_references = (TEACHER,)

    k: int = 0
    """Tokens of the baseline; 0: the whole vocabulary."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise OptionError(f"k={self.k}: expected at least 0")

    def advantage(self, tokens: Tokens) -> Tensor:
        assert tokens.distribution is not None
        assert tokens.targets is not None
        own, teacher = tokens.distribution.detach(), tokens.references[TEACHER]
        sampled = teacher.gather(1, tokens.targets[:, None])[:, 0] - tokens.logprobs.detach()
        if self.k:
            places = own.topk(min(self.k, own.shape[1]), dim=1).indices
            own, teacher = (each.gather(1, places).log_softmax(1) for each in (own, teacher))
        return sampled - (own.exp() * (teacher - own)).sum(1)

    def metrics(self, tokens: Tokens) -> dict[str, float]:
        return {}
