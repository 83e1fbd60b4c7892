"""Two algorithms in one run: a cold start by the first, then the second.

On-policy methods teach little where the student never does anything worth keeping; a few updates of
imitation cure that (arXiv 2604.13016). The optimiser, the learning rate's schedule and the run's
log go on through both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms import COLD_START, DEFAULT_ALGORITHM, choose_algorithm
from ovd_agent.algorithms.base import Algorithm, Checked, Context, Needs, WithLosses
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class Staged:
    """Imitation, or another algorithm, for some updates; then another."""

    first: str = COLD_START
    """The algorithm that begins: a name, or a JSON object of its name and options."""
    first_updates: int = 4
    """Its updates."""
    then: str = DEFAULT_ALGORITHM
    """The algorithm of all later updates, given as the first is."""

    def __post_init__(self) -> None:
        if self.first_updates < 1:
            raise OptionError(f"first_updates={self.first_updates}: expected at least 1")
        self.stages()

    def stages(self) -> tuple[Algorithm, Algorithm]:
        return _algorithm(self.first), _algorithm(self.then)

    def at(self, update: int) -> Algorithm:
        """The algorithm of update number `update`, counted from 0."""
        return self.stages()[int(update >= self.first_updates)]

    @property
    def needs(self) -> Needs:
        """The references of both; what is played depends on the update."""
        wanted: dict[str, Wants] = {}
        for stage in self.stages():
            wanted |= stage.needs.references
        return Needs(
            max(stage.needs.samples for stage in self.stages()),
            wanted,
            verdicts=any(stage.needs.verdicts for stage in self.stages()),
        )

    @property
    def losses(self) -> Sequence[LossComponent]:
        """Those of both. Raises OptionError where they give a component different options."""
        found: dict[str, LossComponent] = {}
        for stage in self.stages():
            for each in stage.losses if isinstance(stage, WithLosses) else ():
                if found.setdefault(each.name, each) != each:
                    raise OptionError(
                        f"first={self.first!r} and then={self.then!r} give the loss {each.name!r}"
                        " different options: give them the same, or train in two runs"
                    )
        return tuple(found.values())

    def check(self, score_levels: int) -> None:
        for stage in self.stages():
            if isinstance(stage, Checked):
                stage.check(score_levels)

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        return self.at(context.update).rows(group, context)


def _algorithm(given: str) -> Algorithm:
    if not given.lstrip().startswith("{"):
        return choose_algorithm(given).build()
    try:
        return choose_algorithm(json.loads(given)).build()
    except ValueError as error:
        raise OptionError(f"{given!r}: not a JSON object ({error})") from None
