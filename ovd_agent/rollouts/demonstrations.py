"""Demonstrations that pass: the teacher's best of several tries, kept in a pool that runs share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovd_envs.episode import Episode, Task, read_episodes, write_episodes
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Scenario


@dataclass(frozen=True)
class DemonstrationConfig:
    """How demonstrations come about. One whose answer is wrong is never used."""

    attempts: int = 1
    """Tries a task; the best that passes is used. The first is the teacher's greedy play."""
    min_score: float = 0.0
    """A demonstration's minimum mean score by the teacher."""
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
    """The teacher's play of tasks in a scenario; where it fails, there is no demonstration."""

    scenario: Scenario
    config: DemonstrationConfig = field(default_factory=DemonstrationConfig)

    def demonstrate(self, tasks: Sequence[Task]) -> list[Episode | None]:
        """A passing episode for each task, or None. Equal tasks are played once."""
        distinct = list({task.id: task for task in tasks}.values())
        found = {task.id: self._pooled(task) for task in distinct}
        if self.config.live:
            found |= self._played([task for task in distinct if found[task.id] is None])
        return [found[task.id] for task in tasks]

    def _played(self, tasks: Sequence[Task]) -> dict[str, Episode | None]:
        best: dict[str, Episode | None] = {task.id: None for task in tasks}
        attempts = [(task, attempt) for task in tasks for attempt in range(self.config.attempts)]
        episodes = self.scenario.demonstrate(
            [task for task, _ in attempts], [attempt for _, attempt in attempts]
        )
        for episode in filter(self._passes, episodes):
            before = best[episode.task.id]
            if before is None or _score(episode) > _score(before):
                best[episode.task.id] = episode
        if self.config.pool is not None:
            for episode in filter(None, best.values()):
                write_episodes(self._place(self.config.pool, episode.task), [episode])
        return best

    def _pooled(self, task: Task) -> Episode | None:
        """What the pool holds for this very task, in this scenario's words, if it passes."""
        if self.config.pool is None:
            return None
        place = self._place(self.config.pool, task)
        episode = next(read_episodes(place), None) if place.exists() else None
        fits = episode is not None and (episode.task, episode.prompt) == (
            task,
            self.scenario.prompt(task),
        )
        return episode if episode is not None and fits and self._passes(episode) else None

    def _place(self, pool: Path, task: Task) -> Path:
        return pool / f"{hashlib.sha256(task.id.encode()).hexdigest()[:24]}.jsonl"

    def _passes(self, episode: Episode) -> bool:
        return episode.exact_match == 1 and _score(episode) >= self.config.min_score


def _score(episode: Episode) -> float:
    """The mean score of its steps; 0 where the teacher gave none."""
    scores = episode.expected_scores
    return sum(scores) / max(1, len(scores))
