"""What an algorithm is: it turns the group of trajectories of a task into training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm asks for before it makes rows. Nothing else is computed.

    `samples`: trajectories that the student plays of each task. `references`: frozen models by
    name, and what they measure of the rows; "start" is the student as the run began.
    `demonstration_scores`: whether the steps of demonstrations are scored, `demonstration_rewards`
    whether that is needed where the environment's reward is made of scores. `verdicts`: whether
    whoever demonstrates rates the samples of a task together, by criteria written for it.
    """

    samples: int = 0
    references: Mapping[str, Wants] = field(default_factory=dict[str, Wants])
    demonstration_scores: bool = False
    demonstration_rewards: bool = False
    verdicts: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample with its trajectory score S(y), whether it was accepted, and what replaced it."""

    sample: Trajectory
    score: float
    accepted: bool
    replacement: Trajectory | None = None


@dataclass(slots=True)
class Context:
    """The update that rows are made for: its number, of how many, counted from 0; the highest score
    plus one; the student's tokenizer. `log` adds a figure of the algorithm's own to the run's log,
    and `judged` collects the samples that it scored, for the report.
    """

    update: int
    updates: int
    score_levels: int
    tokenizer: PreTrainedTokenizerBase
    template: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the chat template."""
    figures: dict[str, float] = field(default_factory=dict[str, float])
    judged: list[Judged] = field(default_factory=list[Judged])

    def log(self, name: str, value: float) -> None:
        self.figures[name] = value


class Algorithm(Protocol):
    """A frozen dataclass, whose fields are its options.

    It may also have any method of `Demonstrated`, `Continues`, `Resamples`, `Adaptive`, `Stages`,
    `Measured`, `WithLosses`, `Checked`, `Advises` and `Stateful`.
    """

    @property
    def needs(self) -> Needs: ...

    def rows(self, group: Group, context: Context) -> list[TrainingRow]: ...


@runtime_checkable
class Demonstrated(Protocol):
    """An algorithm that asks the teacher for demonstrations."""

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        """How many demonstrations it wants of a task, given the student's samples of it."""
        ...


@runtime_checkable
class Continues(Protocol):
    """An algorithm that lets the teacher play samples on from a turn."""

    def cuts(self, group: Group) -> Sequence[tuple[Trajectory, int]]:
        """The samples to be continued, each with the turn (from 0) before which it is cut."""
        ...


@runtime_checkable
class Resamples(Protocol):
    """An algorithm that lets the student play a task again where a group teaches nothing."""

    @property
    def resample(self) -> int:
        """How often at most."""
        ...

    def is_informative(self, group: Group) -> bool: ...


@runtime_checkable
class Adaptive(Protocol):
    """An algorithm that looks at all samples of an update before it decides about any."""

    def adapted(self, samples: Sequence[Trajectory], context: Context) -> Algorithm:
        """The algorithm for this update alone."""
        ...


@runtime_checkable
class Stages(Protocol):
    """An algorithm that is another one in each part of a run."""

    def at(self, update: int) -> Algorithm: ...


@runtime_checkable
class Measured(Protocol):
    """An algorithm whose weights depend on what its references found."""

    def measured(self, rows: Sequence[TrainingRow]) -> None:
        """Change rows once their references have measured them."""
        ...


@runtime_checkable
class WithLosses(Protocol):
    """An algorithm that sets options of loss components, or brings its own."""

    @property
    def losses(self) -> Sequence[LossComponent]: ...


@runtime_checkable
class Checked(Protocol):
    """An algorithm whose options depend on the scale of the scores."""

    def check(self, score_levels: int) -> None:
        """Raise OptionError where they do not fit."""
        ...


@runtime_checkable
class Advises(Protocol):
    """An algorithm that knows what a run's figures may warn of."""

    def advice(self, metrics: Mapping[str, Any], score_levels: int) -> str | None: ...


@runtime_checkable
class Stateful(Protocol):
    """An algorithm with a state of its own, as JSON; checkpoints hold it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def demonstrations_wanted(algorithm: Algorithm, samples: Sequence[Trajectory]) -> int:
    return algorithm.demonstrations(samples) if isinstance(algorithm, Demonstrated) else 0
