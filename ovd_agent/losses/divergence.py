"""Divergences between the distributions of teacher and student, token by token, differentiated.

Generalised knowledge distillation (GKD, arXiv 2306.13649, equation 1, with TRL's convention for
beta), and skewed divergences (DistiLLM, arXiv 2402.03898).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ovd_agent.losses.base import LossComponent, Tokens
from ovd_agent.losses.distillation import TEACHER
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class Divergence(LossComponent):
    """Sum of divergence · D(teacher, student) over the vocabulary, or over `k` tokens and a bucket
    that holds the rest, without which mass could leave the set for free."""

    name = "divergence"
    weight = "divergence"
    reads_distribution = True
    reads_references = (TEACHER,)

    kind: Literal["jsd", "skewed"] = "jsd"
    """The generalised Jensen-Shannon divergence, or KL(teacher || mixture)."""
    beta: float = 1.0
    """Of "jsd": 0 is KL(teacher || student), 1 is KL(student || teacher), between them the
    divergences to beta · teacher + (1 - beta) · student. Of "skewed": the teacher's share of the
    mixture."""
    k: int = 0
    """Tokens with a probability of their own, the others sharing a bucket; 0: all."""
    of: Literal["student", "teacher"] = "student"
    """Whose `k` most likely tokens."""
    entropy_above: float = 0.0
    """Only where the teacher's entropy, in nats, is at least this; 0: everywhere."""
    where_punished: bool = False
    """Only where the teacher finds the token less likely than the student does."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise OptionError(f"beta={self.beta}: expected a number in [0, 1]")
        if self.k < 0 or self.entropy_above < 0:
            raise OptionError(
                f"k={self.k}, entropy_above={self.entropy_above}: expected at least 0, which is all"
            )

    def loss(self, tokens: Tokens) -> Tensor:
        assert tokens.distribution is not None
        student, teacher = tokens.distribution, tokens.references[TEACHER]
        if self.k and self.k < student.shape[1]:
            chosen = student.detach() if self.of == "student" else teacher
            places = chosen.topk(self.k, dim=1).indices
            student, teacher = bucketed(student, places), bucketed(teacher, places)
        weight = tokens.stream(self.weight) * self._counted(tokens)
        return (weight * self.between(teacher, student)).sum()

    def _counted(self, tokens: Tokens) -> Tensor:
        """1 for the tokens that count [n], else 0."""
        teacher = tokens.references[TEACHER]
        counted = torch.ones_like(tokens.logprobs, requires_grad=False)
        if self.entropy_above:
            counted *= -(teacher.exp() * teacher).sum(1) >= self.entropy_above
        if self.where_punished:
            assert tokens.targets is not None
            counted *= teacher.gather(1, tokens.targets[:, None])[:, 0] <= tokens.logprobs
        return counted

    def between(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Of log-probabilities [n, V], as [n]."""
        if self.kind == "skewed":
            return kl(teacher, mixed(teacher, student, self.beta))
        if self.beta == 0:
            return kl(teacher, student)
        if self.beta == 1:
            return kl(student, teacher)
        mixture = mixed(teacher, student, self.beta)
        return self.beta * kl(teacher, mixture) + (1 - self.beta) * kl(student, mixture)


def kl(one: Tensor, other: Tensor) -> Tensor:
    """KL(one || other) from log-probabilities [n, V]."""
    return (one.exp() * (one - other)).sum(1)


def mixed(teacher: Tensor, student: Tensor, share: float) -> Tensor:
    """The logarithm of share · teacher + (1 - share) · student."""
    if share in (0, 1):
        return teacher if share else student
    parts = torch.stack([teacher + math.log(share), student + math.log1p(-share)])
    return parts.logsumexp(0)


def bucketed(distribution: Tensor, places: Tensor) -> Tensor:
    """Log-probabilities [n, k + 1] of the tokens at `places` [n, k], and of all others together."""
    rest = distribution.scatter(1, places, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([distribution.gather(1, places), rest], dim=1)
