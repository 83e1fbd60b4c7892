"""From the tasks of an update to its training rows: play, teach, say what each token contributes.

It knows no learner: a `Trainer` of ours updates by the rows, or another engine does
(`ovd_agent.engines`), of which each process collects its own share of an update.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ovd_agent.algorithms.base import (
    Adaptive,
    Algorithm,
    Context,
    Continues,
    Measured,
    Resamples,
    Stages,
    demonstrations_wanted,
)
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.rollouts.continuations import Cut, continue_samples
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.ratings import rate_samples
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_agent.runs.assemble import SourceParts
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.metrics import describe, truth_of_accepted
from ovd_agent.runs.schedule import Schedule
from ovd_envs.episode import Task


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each stage of an update."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an update that one of `ranks` processes plays: every `ranks`-th task."""

    rank: int = 0
    ranks: int = 1

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        return list(tasks[self.rank :: self.ranks])


@dataclass(frozen=True, slots=True)
class Collected:
    """The rows of an update, the figures of how they came about, and what was judged."""

    rows: list[TrainingRow]
    figures: dict[str, Any]
    context: Context
    groups: list[Group]

    def episodes(self) -> list[dict[str, Any]]:
        """Every play of the update as a record: the student's, demonstrations, continuations."""
        found: list[tuple[str, Trajectory]] = []
        for group in self.groups:
            found += [("sample", each) for each in group.samples]
            found += [("demonstration", each) for each in group.demonstrations]
            found += [("continuation", each.trajectory) for each in group.continuations]
        update = self.context.update
        return [
            {"update": update, "kind": kind, "episode": json.loads(each.episode.to_json())}
            for kind, each in found
        ]

    def rejection(self) -> dict[str, Any] | None:
        """A rejected play beside what replaced it, for the run's report."""
        for each in self.context.judged:
            if each.replacement is not None:
                return {
                    "update": self.context.update,
                    "score": each.score,
                    "threshold": self.context.figures.get("threshold"),
                    "rejected": json.loads(each.sample.episode.to_json()),
                    "replacement": json.loads(each.replacement.episode.to_json()),
                }
        return None


class Collector:
    """Plays the tasks of an update and lets the algorithm make rows of what was played.

    What an update collects depends only on the weights, the seed, the update's number and the
    share.
    """

    def __init__(self, config: TrainConfig, parts: SourceParts, share: Share | None = None) -> None:
        self.config, self.parts = config, parts
        self.algorithm = parts.algorithm
        self.share = share or Share()
        self._schedule = Schedule(parts.tasks, config.tasks_per_update, config.seed)

    def collect(
        self, update: int, watch: Stopwatch, tasks: Sequence[Task] | None = None
    ) -> Collected:
        """Everything of update number `update` except the learning; with `tasks`, of these in place
        of the update's own."""
        tasks = self.tasks(update) if tasks is None else tasks
        paced = self.parts.rollout.scenario.pace(update / self.config.updates)
        with watch("rollout"):
            groups, resampled = self.play(tasks, update)
        algorithm, context = self.algorithm_at(update), self._context(update)
        if isinstance(algorithm, Adaptive):
            samples = [sample for group in groups for sample in group.samples]
            algorithm = algorithm.adapted(samples, context)
        with watch("teacher"):
            failed = self._demonstrate(groups, algorithm)
            continued = self._continue(groups, algorithm)
            rated = (
                rate_samples(groups, self.parts.demonstrations) if algorithm.needs.verdicts else {}
            )
        self.parts.policy.rest()
        with watch("learn"):
            rows = [row for group in groups for row in algorithm.rows(group, context)]
            unmeasured = sum(
                self.parts.references[name].measure(rows, wants)
                for name, wants in algorithm.needs.references.items()
            )
            if isinstance(algorithm, Measured):
                algorithm.measured(rows)
        described = describe(groups, rows, self.parts.score_levels)
        described["student_tokens"] += resampled.get("resampled_tokens", 0)
        figures = {
            **described,
            "trajectory_scores": [round(each.score, 3) for each in context.judged],
            **truth_of_accepted(context.judged),
            **context.figures,
            **continued,
            **rated,
            **resampled,
            **paced,
            "tasks": [task.id for task in tasks],
            "demonstrations_failed": failed,
            "rows_unmeasured": unmeasured,
        }
        return Collected(rows, figures, context, groups)

    def tasks(self, update: int) -> list[Task]:
        return self.share.of(self._schedule.tasks(update))

    def algorithm_at(self, update: int) -> Algorithm:
        algorithm = self.algorithm
        return algorithm.at(update) if isinstance(algorithm, Stages) else algorithm

    def seed_for(self, purpose: str, update: int) -> int:
        """A random seed for one purpose in an update, the same whenever the run is resumed."""
        mine = f" {self.share.rank}" if self.share.rank else ""
        return random.Random(f"{purpose} {self.config.seed} {update}{mine}").getrandbits(31)

    def play(self, tasks: Sequence[Task], update: int) -> tuple[list[Group], dict[str, float]]:
        """The student plays each task as often as the algorithm wants, and again where a group
        teaches nothing to an algorithm that resamples; returns what that cost, too."""
        self.parts.policy.seed(self.seed_for("sampling", update))
        algorithm = self.algorithm_at(update)
        samples = algorithm.needs.samples
        groups = self._groups(tasks, samples)
        if not isinstance(algorithm, Resamples):
            return groups, {}
        again, tokens = 0, 0
        for _ in range(algorithm.resample):
            dull = [
                place for place, each in enumerate(groups) if not algorithm.is_informative(each)
            ]
            again_tasks = [groups[place].task for place in dull]
            for place, group in zip(dull, self._groups(again_tasks, samples)):
                tokens += sum(sample.written_tokens for sample in groups[place].samples)
                groups[place] = group
            again += len(dull)
        return groups, {"resampled_groups": again, "resampled_tokens": tokens}

    def _context(self, update: int) -> Context:
        levels, tokenizer = self.parts.score_levels, self.parts.tokenizer
        template = self.config.rollout.template()
        return Context(update, self.config.updates, levels, tokenizer, template)

    def _groups(self, tasks: Sequence[Task], samples: int) -> list[Group]:
        """One sample's place in the batch does not matter, since all are drawn from one stream."""
        repeated = [task for task in tasks for _ in range(samples)]
        played = self.parts.rollout.play(repeated, temperature=self.config.rollout.temperature)
        return [
            Group(task, played[index * samples : (index + 1) * samples])
            for index, task in enumerate(tasks)
        ]

    def _demonstrate(self, groups: Sequence[Group], algorithm: Algorithm) -> int:
        """Ask for all the demonstrations of the update at once; returns how many did not come, or
        are longer than the student may play."""
        wanted = [
            group
            for group in groups
            for _ in range(demonstrations_wanted(algorithm, group.samples))
        ]
        needs = algorithm.needs
        shown = self.parts.demonstrations.demonstrate(
            [group.task for group in wanted],
            scored=needs.demonstration_scores,
            rewarded=needs.demonstration_rewards,
        )
        failed = 0
        for group, episode in zip(wanted, shown, strict=True):
            trajectory = episode and self.parts.rollout.tokenized(episode)
            if trajectory and len(trajectory.ids) <= self.config.rollout.max_length:
                group.demonstrations.append(trajectory)
            else:
                failed += 1
        return failed

    def _continue(self, groups: Sequence[Group], algorithm: Algorithm) -> dict[str, float]:
        """Let the teacher play on the samples that the algorithm cuts, all at once."""
        if not isinstance(algorithm, Continues):
            return {}
        cuts = [Cut(group, *each) for group in groups for each in algorithm.cuts(group)]
        return continue_samples(cuts, self.parts.demonstrations, self.parts.rollout)
