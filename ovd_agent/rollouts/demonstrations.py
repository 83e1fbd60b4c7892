"""Demonstrations that pass: the teacher's best of several tries, kept in a pool that runs share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ovd_envs.episode import Episode, Task, read_episodes, write_episodes
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Scenario
from ovd_envs.teachers.base import Demonstrator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemonstrationConfig:
    """How demonstrations are made. One with a wrong answer is never used."""

    attempts: int = 1
    """Tries per task; the best that passes is used. The first is greedy."""
    min_score: float = 0.0
    """A demonstration's minimum mean score by the run's teacher, in the pool, too."""
    pool: Path | None = None
    """A folder that keeps demonstrations for later runs."""
    live: bool = True
    """Let the teacher play tasks that are missing in the pool. Otherwise these have no
    demonstration."""
    only: bool = False
    """Train only on tasks that the pool has a demonstration of: what the teacher cannot do is not
    asked of the student."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise OptionError(f"demonstrations.attempts={self.attempts}: expected at least 1")
        if not self.live and self.pool is None:
            raise OptionError("demonstrations.live=False needs demonstrations.pool, a folder")
        if self.only and self.pool is None:
            raise OptionError("demonstrations.only needs demonstrations.pool, a folder")


Key = tuple[str, ...]
"""What an episode is the continuation of: its task's id and the actions before."""


@dataclass(slots=True)
class Demonstrations:
    """A demonstrator's play of tasks in a scenario, whose teacher scores it where scores are used.

    By default the scenario's own teacher demonstrates. A whole demonstration is the continuation
    of an episode that nobody has played in yet.
    """

    scenario: Scenario
    config: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    demonstrator: Demonstrator | None = None

    @property
    def author(self) -> object:
        """Who demonstrates."""
        return self.scenario.teacher if self.demonstrator is None else self.demonstrator

    def chosen(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """The tasks to train on: all, or with `only` those that the pool has.

        Raises OptionError if it has none.
        """
        if not self.config.only:
            return tasks
        starts = self.scenario.begin(tasks)
        found = [start.task for start in starts if any(map(self._is_right, self._pooled(start)))]
        if not found:
            raise OptionError(
                f"demonstrations.pool={str(self.config.pool)!r} has no demonstration of any of the"
                f" {len(tasks)} tasks: fill it by ovd demonstrate with the same environment"
            )
        return found

    def demonstrate(
        self, tasks: Sequence[Task], *, scored: bool = False, rewarded: bool = False
    ) -> list[Episode | None]:
        """A passing episode for each task, or None.

        A task that is given several times gets as many different ones. Their steps are scored if
        `scored`, or if they are `rewarded` and the scenario's reward is made of scores, or if the
        configuration chooses by scores.
        """
        return self.complete(self.scenario.begin(tasks), scored=scored, rewarded=rewarded)

    def complete(
        self, starts: Sequence[Episode], *, scored: bool = False, rewarded: bool = False
    ) -> list[Episode | None]:
        """A passing episode that goes on from each of `starts`, or None; as `demonstrate`."""
        config = self.config
        scored = scored or config.attempts > 1 or config.min_score > 0
        scored = scored or (rewarded and self.scenario.options.reward != "outcome")
        keys = [key_of(start) for start in starts]
        counts, distinct = Counter(keys), dict(zip(keys, starts, strict=True))
        found = {key: self._pooled(start) for key, start in distinct.items()}
        if scored:
            self.scenario.judge([episode for each in found.values() for episode in each])
        else:
            self._forget_scores([episode for each in found.values() for episode in each])
        found = {key: list(filter(self._passes, each)) for key, each in found.items()}
        lacking = {k: start for k, start in distinct.items() if len(found[k]) < counts[k]}
        if config.live and lacking:
            self._add_played(found, lacking, counts, scored)
        best = {key: iter(sorted(each, key=_rank)) for key, each in found.items()}
        return [next(best[key], None) for key in keys]

    def _forget_scores(self, episodes: Sequence[Episode]) -> None:
        """Those of a pool are another judge's."""
        for episode in episodes:
            for turn in episode.turns:
                turn.score = None
        self.scenario.unscored().pay(episodes)

    def _add_played(
        self,
        found: dict[Key, list[Episode]],
        starts: Mapping[Key, Episode],
        counts: Counter[Key],
        scored: bool,
    ) -> None:
        """Play on from the starts, and keep what passes and is new."""
        tries = [
            replace(self.scenario.resume(start, len(start.turns)), seed=seed)
            for key, start in starts.items()
            for seed in range(self.config.attempts * counts[key])
        ]
        begun = [len(episode.turns) for episode in tries]
        self.scenario.complete(tries, self.demonstrator, scored=scored)
        passed = [
            (key_of(episode, turns), episode)
            for episode, turns in zip(tries, begun, strict=True)
            if self._passes(episode)
        ]
        for key, episode in sorted(passed, key=lambda each: _rank(each[1])):
            if all(_actions(episode) != _actions(other) for other in found[key]):
                found[key].append(episode)
        if self.config.pool is not None:
            for key, start in starts.items():
                if found[key]:
                    write_episodes(self._place(self.config.pool, start), found[key])

    def _pooled(self, start: Episode) -> list[Episode]:
        """What the pool holds for this very task, in this scenario's words, after these actions."""
        if self.config.pool is None:
            return []
        place = self._place(self.config.pool, start)
        try:
            episodes = list(read_episodes(place)) if place.exists() else []
        except ValueError as error:
            log.warning("%s; it counts as empty", error)
            return []
        asked = start.task, start.prompt, key_of(start)
        turns = len(start.turns)
        return [each for each in episodes if (each.task, each.prompt, key_of(each, turns)) == asked]

    def _place(self, pool: Path, start: Episode) -> Path:
        name = json.dumps([start.task.id, start.prompt, *_actions(start)])
        return pool / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.jsonl"

    def _passes(self, episode: Episode) -> bool:
        return self._is_right(episode) and _score(episode) >= self.config.min_score

    @staticmethod
    def _is_right(episode: Episode) -> bool:
        return episode.exact_match == 1


def key_of(episode: Episode, turns: int | None = None) -> Key:
    """Of an episode, or of its first `turns` turns: equal ones go on from one place."""
    return (episode.task.id, *_actions(episode)[:turns])


def _rank(episode: Episode) -> float:
    return -_score(episode)


def _actions(episode: Episode) -> list[str]:
    return [turn.action for turn in episode.turns]


def _score(episode: Episode) -> float:
    """The mean score of its steps; 0 where the teacher gave none."""
    scores = episode.expected_scores
    return sum(scores) / max(1, len(scores))
