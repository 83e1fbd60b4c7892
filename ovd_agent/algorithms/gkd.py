"""GKD: a divergence over the whole vocabulary, differentiated (arXiv 2306.13649).

With `on_policy=1` the student's own samples are the contexts; below, that share of the tasks, and
the teacher's demonstrations of the others. `beta` 0 is KL(teacher || student), which covers what
the teacher does; 1 is KL(student || teacher), which seeks its mode; between them the generalised
Jensen-Shannon divergence, as in TRL.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.of_tokens import OfTokens
from ovd_agent.algorithms.rows import distilled_row
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER
from ovd_agent.losses.divergence import Divergence
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class GKD(OfTokens):
    """Divergence to a teacher of tokens at the contexts that the student visits."""

    on_policy: float = 1.0
    """Share of the tasks that the student's samples teach; demonstrations teach the others."""
    kind: Literal["jsd", "skewed"] = "jsd"
    """The generalised Jensen-Shannon divergence, or KL to a mixture (DistiLLM)."""
    beta: float = 0.5
    """Of "jsd": 0 is KL(teacher || student), 1 KL(student || teacher). Of "skewed": the teacher's
    share of the mixture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.on_policy <= 1:
            raise OptionError(f"on_policy={self.on_policy}: expected a share in [0, 1]")
        self.component()

    def component(self) -> Divergence:
        return Divergence(self.kind, self.beta)

    @property
    def needs(self) -> Needs:
        wants = self.wants(Divergence.weight, whole=True)
        return Needs(self.samples, {TEACHER: wants})

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (self.component(),)

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return int(bool(samples) and not self._is_on_policy(samples[0].episode.task.id))

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        own = self._is_on_policy(group.task.id)
        shown = group.played if own else group.demonstrations
        return [distilled_row(each, Divergence.weight) for each in shown]

    def _is_on_policy(self, task: str) -> bool:
        """By the name of the task, so that it is the same when a run is resumed."""
        return zlib.crc32(task.encode()) / 2**32 < self.on_policy
