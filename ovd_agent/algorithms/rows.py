"""The rows that algorithms share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import ADVANTAGE, AUTHORS, BEHAVIOUR, Kind, TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.cispo_gradient import CISPOGradient
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.losses.kl import KL, START
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.losses.sequence_gradient import SequenceGradient
from ovd_agent.losses.shaped import Shaped
from ovd_agent.rollouts.trajectory import Author, Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class PolicyTerm:
    """Policy gradient of the student's own tokens."""

    weight: float = 1.0
    """Weight of the policy gradient relative to the demonstrations."""
    kl: float = 0.0
    """Weight of the KL divergence to the initial student."""
    clip_low: float = 0.2
    """Lower clip of the importance ratio: 1 - clip_low."""
    clip_high: float = 0.2
    """Upper clip of the importance ratio: 1 + clip_high."""
    max_ratio: float = 10.0
    """Truncate larger importance ratios to this (arXiv 1802.01561)."""
    ratio: Literal["token", "sequence", "constant"] = "token"
    """What is clipped: the ratio of each token (PPO), one ratio per sample (GSPO), or constant
    token weights in REINFORCE (CISPO)."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.kl < 0:
            raise OptionError("weight and kl of the policy gradient: expected 0 or more")
        self.component()

    def component(self) -> LossComponent:
        kinds = {"token": PolicyGradient, "sequence": SequenceGradient, "constant": CISPOGradient}
        return kinds[self.ratio](self.clip_low, self.clip_high, self.max_ratio)

    def references(self) -> dict[str, Wants]:
        return {START: Wants(KL.weight)} if self.kl > 0 else {}


def policy_row(
    trajectory: Trajectory, advantages: Sequence[float], *, weight: float = 1.0, kl: float = 0.0
) -> TrainingRow:
    """A student's row: the tokens of its k-th turn carry the k-th advantage. What a teacher wrote
    in it is left alone."""
    row = row_of(trajectory)
    row.stream(BEHAVIOUR)[:] = trajectory.logprobs
    for segment in trajectory.by("student"):
        span = slice(segment.start, segment.end)
        row.stream(PolicyGradient.weight)[span] = weight
        row.stream(KL.weight)[span] = kl
        row.stream(ADVANTAGE)[span] = advantages[segment.turn]
    return row


def distilled_row(trajectory: Trajectory, stream: str, first: int = 0) -> TrainingRow:
    """Weight 1 in `stream` for the student's tokens, or for the `first` of them; for the teacher's
    where it wrote all."""
    row = _taught(trajectory, stream, 1.0, "student" if trajectory.by("student") else "teacher")
    row.stream(BEHAVIOUR)[:] = trajectory.logprobs
    if first:
        row.stream(stream)[np.flatnonzero(row.has(stream))[first:]] = 0.0
    return row


def imitation_row(trajectory: Trajectory, weight: float = 1.0) -> TrainingRow:
    """Cross-entropy on every token the teacher wrote; on the student's where it wrote all."""
    return _taught(trajectory, CrossEntropy.weight, weight)


def ratio_one_row(trajectory: Trajectory, advantage: float, weight: float = 1.0) -> TrainingRow:
    """A demonstration under the policy gradient: nobody sampled it from the student, so its
    ratio is 1 and its gradient A·∇log π."""
    row = _taught(trajectory, PolicyGradient.weight, weight)
    row.stream(ADVANTAGE)[row.has(PolicyGradient.weight)] = advantage
    return row


def shaped_row(trajectory: Trajectory, weight: float = 1.0) -> TrainingRow:
    """A demonstration with the objective p / (p + gamma) on every token (arXiv 2504.14945)."""
    return _taught(trajectory, Shaped.weight, weight)


def merged(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Equal demonstrations become one row that counts as often: computed once."""
    found: dict[tuple[int, ...], TrainingRow] = {}
    for row in rows:
        twin = found.setdefault(tuple(row.ids), row)
        if twin is not row:
            twin.copies += row.copies
    return list(found.values())


def row_of(trajectory: Trajectory) -> TrainingRow:
    """A row of the trajectory that trains nothing yet."""
    authors = np.empty(len(trajectory.ids), dtype=np.int8)
    turns = np.empty(len(trajectory.ids), dtype=np.int16)
    for segment in trajectory.segments:
        authors[segment.start : segment.end] = AUTHORS.index(segment.author)
        turns[segment.start : segment.end] = segment.turn
    row = TrainingRow.blank(trajectory.ids, _kind(trajectory), authors)
    row.turns = turns
    row.group, row.version = trajectory.episode.task.id, trajectory.version
    return row


def _kind(trajectory: Trajectory) -> Kind:
    if not trajectory.by("teacher"):
        return "student"
    return "demonstration" if trajectory.is_demonstration else "continued"


def _taught(
    trajectory: Trajectory, stream: str, weight: float, author: Author | None = None
) -> TrainingRow:
    row = row_of(trajectory)
    author = author or ("teacher" if trajectory.by("teacher") else "student")
    for segment in trajectory.by(author):
        row.stream(stream)[segment.start : segment.end] = weight
    return row
