"""Scenario: the rules of an environment, advancing a whole list of episodes at once.

`gym.Env` is the list of length one, `gym.vector.VectorEnv` the whole list, and the rollout
engine uses the same object: one code path, and it is the batched one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from ovd_envs.grammar import Action, parse_action
from retrieval_index.documents import Document

RewardMode = Literal["outcome", "verbal", "mixed"]


@runtime_checkable
class SearchEngine(Protocol):
    """Anything that answers a batch of queries with up to `k` passages each, best first."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]: ...


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Judge turn `index` of `episode` on the scale 0..levels-1 (later turns are not looked at)."""

    episode: Episode
    index: int
    levels: int = 10

    @property
    def turn(self) -> Turn:
        return self.episode.turns[self.index]


@runtime_checkable
class Teacher(Protocol):
    """Scores steps, and acts itself when a demonstration is wanted."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]: ...

    def act(self, episodes: Sequence[Episode]) -> list[str]: ...


class TeacherError(RuntimeError):
    """The teacher gave no score and the scenario was not told to go on without one."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the world says to one action, before scoring."""

    observation: str
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Grade:
    exact_match: float
    f1: float


class Scenario(ABC):
    """The common part of all scenarios; subclasses say how to prompt, respond and grade.

    `reward`: "outcome" pays the exact match on the last step, "verbal" pays level/(levels-1)
    on every step, "mixed" pays outcome + verbal/max_turns. `missing_scores`: "raise"
    turns a teacher's failure into a `TeacherError`; "mark" goes on with a score whose source
    is "missing" and which pays nothing.
    """

    stop_strings: tuple[str, ...]
    """A student's turn ends with the first of these."""

    def __init__(
        self,
        *,
        teacher: Teacher | None,
        reward: RewardMode = "outcome",
        max_turns: int = 4,
        max_chars: int = 100_000,
        score_levels: int = 10,
        missing_scores: Literal["raise", "mark"] = "raise",
    ) -> None:
        if reward not in ("outcome", "verbal", "mixed"):
            raise ValueError(f"reward={reward!r}: expected 'outcome', 'verbal' or 'mixed'")
        if reward != "outcome" and teacher is None:
            raise ValueError(f"reward={reward!r} needs a teacher, such as teacher='oracle'")
        if max_turns < 1:
            raise ValueError(f"max_turns={max_turns}: expected at least 1")
        if score_levels < 2:
            raise ValueError(f"score_levels={score_levels}: expected at least 2")
        if missing_scores not in ("raise", "mark"):
            raise ValueError(f"missing_scores={missing_scores!r}: expected 'raise' or 'mark'")
        self.teacher = teacher
        self.reward = reward
        self.max_turns = max_turns
        self.max_chars = max_chars
        self.score_levels = score_levels
        self.missing_scores = missing_scores

    @abstractmethod
    def prompt(self, task: Task) -> str:
        """The first observation of an episode."""

    @abstractmethod
    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        """The world's answer to each action; one batched call serves the whole step."""

    @abstractmethod
    def grade(self, task: Task, answer: str) -> Grade: ...

    def begin(self, tasks: Sequence[Task], seeds: Sequence[int] | None = None) -> list[Episode]:
        """Start an episode for each task."""
        return [
            Episode(task, self.prompt(task), seed)
            for task, seed in zip(tasks, seeds or [0] * len(tasks), strict=True)
        ]

    def advance(self, episodes: Sequence[Episode], actions: Sequence[str]) -> list[Turn]:
        """Play one action in each episode: parse, respond, grade, score, pay; all of it batched.

        A step that fails anywhere is taken back whole: every episode is as it was.
        """
        if len(actions) != len(episodes):
            raise ValueError(
                f"{len(actions)} actions for {len(episodes)} episodes: expected one each"
            )
        for episode in episodes:
            if episode.done:
                raise ValueError(f"episode of task {episode.task.id!r} is over: begin a new one")
        parsed = [parse_action(action) for action in actions]
        responses = self.respond(episodes, parsed)
        turns = [
            Turn(raw, action.kind, action.content, response.observation, response.documents)
            for raw, action, response in zip(actions, parsed, responses, strict=True)
        ]
        try:
            for episode, turn in zip(episodes, turns, strict=True):
                episode.turns.append(turn)
                self._end_if_over(episode)
            scores = self._scores(episodes)
        except BaseException:
            _take_back(episodes, turns)
            raise
        for turn, score in zip(turns, scores, strict=True):
            turn.score = score
        for episode, turn in zip(episodes, turns, strict=True):
            turn.reward = self._reward(episode, turn)
        return turns

    def truncate(self, episode: Episode) -> None:
        """End an episode from outside (a time limit, a full context window)."""
        if not episode.done:
            episode.truncated, episode.exact_match, episode.f1 = True, 0.0, 0.0

    def demonstrate(
        self, tasks: Sequence[Task], seeds: Sequence[int] | None = None
    ) -> list[Episode]:
        """The teacher's own play of the tasks, in this very scenario."""
        if self.teacher is None:
            raise TeacherError("a demonstration needs a teacher: pass teacher='oracle' or your own")
        episodes = self.begin(tasks, seeds)
        while running := [episode for episode in episodes if not episode.done]:
            self.advance(running, self.teacher.act(running))
        return episodes

    def _end_if_over(self, episode: Episode) -> None:
        turn = episode.turns[-1]
        if turn.kind == "answer":
            grade = self.grade(episode.task, turn.content)
            episode.terminated = True
            episode.exact_match, episode.f1 = grade.exact_match, grade.f1
        elif len(episode.turns) >= self.max_turns or self._length(episode) > self.max_chars:
            self.truncate(episode)

    @staticmethod
    def _length(episode: Episode) -> int:
        said = sum(len(turn.action) + len(turn.observation) for turn in episode.turns)
        return len(episode.prompt) + said

    def _scores(self, episodes: Sequence[Episode]) -> list[VerbalScore | None]:
        if self.teacher is None:
            return [None] * len(episodes)
        requests = [
            ScoreRequest(episode, len(episode.turns) - 1, self.score_levels) for episode in episodes
        ]
        try:
            scores = self.teacher.score(requests)
        except Exception as error:
            if self.missing_scores == "raise":
                raise TeacherError(f"the teacher failed to score: {error}") from error
            return [VerbalScore.missing(str(error)) for _ in episodes]
        if len(scores) != len(requests):
            raise TeacherError(f"the teacher gave {len(scores)} scores for {len(requests)} steps")
        for score in scores:
            if score.level is None:
                if self.missing_scores == "raise":
                    raise TeacherError(f"the teacher gave no score: {score.rationale}")
            elif not 0 <= score.level < self.score_levels:
                raise TeacherError(
                    f"the teacher gave score {score.level}: expected 0 to {self.score_levels - 1}"
                )
        return list(scores)

    def _reward(self, episode: Episode, turn: Turn) -> float:
        outcome = (episode.exact_match or 0.0) if episode.done else 0.0
        if self.reward == "outcome":
            return outcome
        level = turn.score.level if turn.score else None
        verbal = 0.0 if level is None else level / (self.score_levels - 1)
        return verbal if self.reward == "verbal" else outcome + verbal / self.max_turns


def _take_back(episodes: Sequence[Episode], turns: Sequence[Turn]) -> None:
    """Undo a step that nobody could score, so that it may be tried again."""
    for episode, turn in zip(episodes, turns, strict=True):
        if episode.turns and episode.turns[-1] is turn:
            episode.turns.pop()
            episode.terminated = episode.truncated = False
            episode.exact_match = episode.f1 = None
