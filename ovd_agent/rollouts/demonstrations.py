"""Demonstrations that pass: the teacher's best of several tries, kept in a pool that runs share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovd_envs.episode import Episode, Task, read_episodes, write_episodes
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Scenario
from ovd_envs.teachers.base import Demonstrator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemonstrationConfig:
    """How demonstrations come about. One whose answer is wrong is never used."""

    attempts: int = 1
    """Tries a task; the best that passes is used. The first is the teacher's greedy play."""
    min_score: float = 0.0
    """A demonstration's minimum mean score by the run's teacher, in the pool, too."""
    pool: Path | None = None
    """A folder that keeps demonstrations for later runs."""
    live: bool = True
    """Whether the teacher plays tasks that the pool lacks; else these have no demonstration."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise OptionError(f"demonstrations.attempts={self.attempts}: expected at least 1")
        if not self.live and self.pool is None:
            raise OptionError("demonstrations.live=False needs demonstrations.pool, a folder")


@dataclass(slots=True)
class Demonstrations:
    """A demonstrator's play of tasks in a scenario, whose teacher scores it where scores are used.

    By default the scenario's own teacher demonstrates.
    """

    scenario: Scenario
    config: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    demonstrator: Demonstrator | None = None

    def demonstrate(
        self, tasks: Sequence[Task], *, scored: bool = False, rewarded: bool = False
    ) -> list[Episode | None]:
        """A passing episode for each task, or None.

        A task that is given several times gets as many different ones. Their steps are scored if
        `scored`, or if they are `rewarded` and the scenario's reward is made of scores, or if the
        configuration chooses by scores.
        """
        config = self.config
        scored = scored or config.attempts > 1 or config.min_score > 0
        scored = scored or (rewarded and self.scenario.options.reward != "outcome")
        counts = Counter(task.id for task in tasks)
        distinct = {task.id: task for task in tasks}
        found = {name: self._pooled(task) for name, task in distinct.items()}
        if scored:
            self.scenario.judge([episode for each in found.values() for episode in each])
        else:
            self._forget_scores([episode for each in found.values() for episode in each])
        found = {name: list(filter(self._passes, each)) for name, each in found.items()}
        lacking = [task for name, task in distinct.items() if len(found[name]) < counts[name]]
        if config.live and lacking:
            self._add_played(found, lacking, counts, scored)
        best = {name: iter(sorted(each, key=_rank)) for name, each in found.items()}
        return [next(best[task.id], None) for task in tasks]

    def _forget_scores(self, episodes: Sequence[Episode]) -> None:
        """Those of a pool are another judge's."""
        for episode in episodes:
            for turn in episode.turns:
                turn.score = None
        self.scenario.unscored().pay(episodes)

    def _add_played(
        self,
        found: dict[str, list[Episode]],
        tasks: Sequence[Task],
        counts: Counter[str],
        scored: bool,
    ) -> None:
        """Play the tasks, and keep what passes and is new."""
        tries = [(t, seed) for t in tasks for seed in range(self.config.attempts * counts[t.id])]
        played = self.scenario.demonstrate(
            [task for task, _ in tries],
            [seed for _, seed in tries],
            self.demonstrator,
            scored=scored,
        )
        for episode in sorted(filter(self._passes, played), key=_rank):
            mine = found[episode.task.id]
            if all(_actions(episode) != _actions(each) for each in mine):
                mine.append(episode)
        if self.config.pool is not None:
            for task in tasks:
                if found[task.id]:
                    write_episodes(self._place(self.config.pool, task), found[task.id])

    def _pooled(self, task: Task) -> list[Episode]:
        """What the pool holds for this very task, in this scenario's words."""
        if self.config.pool is None:
            return []
        place = self._place(self.config.pool, task)
        try:
            episodes = list(read_episodes(place)) if place.exists() else []
        except ValueError as error:
            log.warning("%s; it counts as empty", error)
            return []
        asked = task, self.scenario.prompt(task)
        return [episode for episode in episodes if (episode.task, episode.prompt) == asked]

    def _place(self, pool: Path, task: Task) -> Path:
        name = json.dumps([task.id, self.scenario.prompt(task)])
        return pool / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.jsonl"

    def _passes(self, episode: Episode) -> bool:
        return episode.exact_match == 1 and _score(episode) >= self.config.min_score


def _rank(episode: Episode) -> float:
    return -_score(episode)


def _actions(episode: Episode) -> list[str]:
    return [turn.action for turn in episode.turns]


def _score(episode: Episode) -> float:
    """The mean score of its steps; 0 where the teacher gave none."""
    scores = episode.expected_scores
    return sum(scores) / max(1, len(scores))
