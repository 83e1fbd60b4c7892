"""Scenario: the rules of an environment, advancing a whole list of episodes at once.

`gym.Env` is the list of length one, `gym.vector.VectorEnv` the whole list, and the rollout
engine uses the same object: one code path, and it is the batched one.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ovd_envs.episode import EndReason, Episode, Task, Turn, VerbalScore
from ovd_envs.errors import EpisodeOverError, OptionError, ServiceUnavailable, TeacherUnavailable
from ovd_envs.grammar import Action, parse_action
from ovd_envs.options import Options
from ovd_envs.teachers.base import Demonstrator, Judge, ScoreRequest
from ovd_envs.wording import ANSWER_TOOL, CALL_END, TOOLS, as_call
from retrieval_index.documents import Document


@dataclass(frozen=True, slots=True)
class Response:
    """What the world says to one action, before scoring; or the `fault` that kept it silent."""

    observation: str = ""
    documents: tuple[Document, ...] = ()
    fault: ServiceUnavailable | None = None


@dataclass(frozen=True, slots=True)
class Grade:
    exact_match: float
    f1: float
    source: str = "text"


@dataclass(slots=True)
class Costs:
    """What judges and demonstrators did in a scenario, and in what time."""

    scores: int = 0
    missing_scores: int = 0
    judging_seconds: float = 0.0
    actions: int = 0
    """Of demonstrators."""
    acting_seconds: float = 0.0


class Scenario(ABC):
    """The common part of all scenarios; subclasses say how to prompt, parse, respond and grade.

    A scenario holds no state of an episode: what has happened stands in the Episode alone, so that
    an episode can be resumed at any turn (`resume`) by anyone (`play_on`).
    """

    stop_strings: tuple[str, ...]
    """A student's turn ends with the first of these."""
    rubric: str
    """What makes a step good, by name, for teachers that judge several kinds of scenario."""

    def __init__(self, options: Options, teacher: Judge | None) -> None:
        if options.reward != "outcome" and teacher is None:
            raise OptionError(f"reward={options.reward!r} needs a teacher: expected one, not None")
        self.options = options
        self.teacher = teacher
        self.costs = Costs()
        if options.prompt == TOOLS:
            self.stop_strings = (*self.stop_strings, CALL_END)

    def __deepcopy__(self, memo: object) -> Scenario:
        """Itself: options do not change, and an index or a teacher is not to be copied."""
        return self

    def unscored(self) -> Self:
        """The same scenario without its teacher, paying the outcome."""
        other = copy.copy(self)
        other.teacher, other.options = None, replace(self.options, reward="outcome")
        return other

    @abstractmethod
    def prompt(self, task: Task) -> str:
        """The first observation of an episode."""

    @abstractmethod
    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        """The world's answer to each action; one batched call serves the whole step."""

    @abstractmethod
    def grade(self, task: Task, answer: str) -> Grade: ...

    def pace(self, share: float) -> dict[str, float]:
        """Told before each update which share of a run is done; returns figures for the log."""
        return {}

    def tools(self) -> list[Mapping[str, Any]]:
        """Schemas of the tools that an action may call, for chat templates and APIs."""
        return [ANSWER_TOOL]

    def parse(self, text: str) -> Action:
        """What a student's text means; never raises."""
        return parse_action(text)

    def begin(self, tasks: Sequence[Task], seeds: Sequence[int] | None = None) -> list[Episode]:
        """Start an episode for each task."""
        return [
            Episode(task, self.prompt(task), seed, rubric=self.rubric)
            for task, seed in zip(tasks, seeds or [0] * len(tasks), strict=True)
        ]

    def advance(self, episodes: Sequence[Episode], actions: Sequence[str]) -> list[Turn]:
        """Play one action in each episode: parse, respond, grade, score, pay; all of it batched.

        Raises EpisodeOverError for an episode that has ended, and with `on_error="raise"`
        SearchUnavailable or TeacherUnavailable: the error names the places that failed, whose
        episodes are as they were, and holds the turns of the others, which are finished.
        """
        _check_running(episodes, actions)
        parsed = [self.parse(action) for action in actions]
        turns = [
            Turn(raw, action.kind, action.content, action.discarded_chars)
            for raw, action in zip(actions, parsed, strict=True)
        ]
        faults: dict[int, ServiceUnavailable] = {}
        for place, response in enumerate(self.respond(episodes, parsed)):
            turns[place].observation = response.observation
            turns[place].documents = response.documents
            if response.fault:
                faults[place] = response.fault
        for place, episode in enumerate(episodes):
            if place not in faults:
                episode.turns.append(turns[place])
                self._end_if_over(episode)
        faults |= self._score(episodes, turns, faults)
        for place, episode in enumerate(episodes):
            if place not in faults:
                turns[place].reward = self._reward(episode)
        if faults:
            self._settle(episodes, turns, faults)
        return turns

    def truncate(self, episode: Episode, reason: EndReason = "length_limit") -> None:
        """End an episode from outside (a full context window); one that has ended stays so."""
        if not episode.done:
            episode.truncated, episode.end_reason = True, reason
            if reason != "infrastructure":
                episode.exact_match, episode.f1 = 0.0, 0.0

    def resume(self, episode: Episode, turn: int) -> Episode:
        """A copy of an episode as it stood before turn `turn` (from 0), ready to be played on.

        Raises OptionError if it has fewer turns.
        """
        if not 0 <= turn <= len(episode.turns):
            raise OptionError(f"turn={turn}: expected 0 to {len(episode.turns)}, the turns it has")
        kept = [replace(each) for each in episode.turns[:turn]]
        return Episode(episode.task, episode.prompt, episode.seed, kept, rubric=episode.rubric)

    def play_on(self, episodes: Sequence[Episode], actor: Demonstrator) -> None:
        """Let `actor` play all running episodes to their end, together."""
        while running := [episode for episode in episodes if not episode.done]:
            start = time.perf_counter()
            actions = actor.act(running)
            if self.options.prompt == TOOLS:
                actions = [as_call(action) for action in actions]
            self.costs.actions += len(actions)
            self.costs.acting_seconds += time.perf_counter() - start
            self.advance(running, actions)

    def demonstrate(
        self,
        tasks: Sequence[Task],
        seeds: Sequence[int] | None = None,
        demonstrator: Demonstrator | None = None,
        *,
        scored: bool = True,
    ) -> list[Episode]:
        """A demonstrator's play of the tasks in this very scenario, by default its teacher's.

        Unless it is `scored`, the teacher judges no step and the episodes pay the outcome.
        """
        episodes = self.begin(tasks, seeds)
        self.complete(episodes, demonstrator, scored=scored)
        return episodes

    def complete(
        self,
        episodes: Sequence[Episode],
        demonstrator: Demonstrator | None = None,
        *,
        scored: bool = True,
    ) -> None:
        """Let a demonstrator play episodes on from where they stand; as `demonstrate`."""
        actor = demonstrator or self.teacher
        if not isinstance(actor, Demonstrator):
            raise OptionError(
                "a demonstration needs a teacher with a method act(episodes): pass such a teacher"
            )
        (self if scored else self.unscored()).play_on(episodes, actor)

    def judge(self, episodes: Sequence[Episode]) -> None:
        """Let the teacher score the steps of finished episodes anew, and pay them by this
        scenario's reward. Raises TeacherUnavailable."""
        requests = [
            ScoreRequest(episode, index, self.options.score_levels)
            for episode in episodes
            for index in range(len(episode.turns))
        ]
        if self.teacher is None:
            raise OptionError("scores of a demonstration need a teacher: pass one")
        try:
            scores = self._asked(self.teacher, requests) if requests else []
        except Exception as error:
            raise TeacherUnavailable(f"the teacher failed to score: {error}") from error
        for request, score in zip(requests, scores, strict=True):
            request.turn.score = score
        self.pay(episodes)

    def pay(self, episodes: Sequence[Episode]) -> None:
        """Set the rewards of finished episodes anew by this scenario's reward."""
        for episode in episodes:
            for turn in episode.turns:
                turn.reward = 0.0
            if episode.turns:
                episode.turns[-1].reward = self._reward(episode)

    def replay(self, episode: Episode) -> Episode:
        """Play the actions of a stored episode again, from its task and seed."""
        [again] = self.begin([episode.task], [episode.seed])
        for turn in episode.turns:
            self.advance([again], [turn.action])
        if episode.truncated:
            self.truncate(again, episode.end_reason or "length_limit")
        return again

    def _end_if_over(self, episode: Episode) -> None:
        turn = episode.turns[-1]
        if turn.kind == "answer":
            grade = self.grade(episode.task, turn.content)
            episode.terminated, episode.end_reason = True, "answered"
            episode.exact_match, episode.f1 = grade.exact_match, grade.f1
            episode.grade_source = grade.source
        elif turn.kind == "invalid" and _invalid(episode) == self.options.max_invalid:
            episode.terminated, episode.end_reason = True, "invalid_limit"
            episode.exact_match, episode.f1 = 0.0, 0.0
        elif len(episode.turns) >= self.options.max_turns:
            self.truncate(episode, "turn_limit")
        elif _length(episode) > self.options.max_chars:
            self.truncate(episode, "length_limit")

    def _score(
        self,
        episodes: Sequence[Episode],
        turns: Sequence[Turn],
        faults: Mapping[int, ServiceUnavailable],
    ) -> dict[int, ServiceUnavailable]:
        """Ask the teacher about every turn that was played; returns the faults this brings."""
        places = [place for place in range(len(turns)) if place not in faults]
        if self.teacher is None or not places:
            return {}
        requests = [
            ScoreRequest(episodes[place], len(episodes[place].turns) - 1, self.options.score_levels)
            for place in places
        ]
        try:
            scores = self._asked(self.teacher, requests)
        except Exception as error:  # whatever a teacher raises, the step has no score
            fault = TeacherUnavailable(f"the teacher failed to score: {error}")
            fault.__cause__ = error
            return dict.fromkeys(places, fault)
        found: dict[int, ServiceUnavailable] = {}
        for place, score in zip(places, scores, strict=True):
            turns[place].score = score
            if score.level is None and self.options.reward != "outcome":
                found[place] = TeacherUnavailable(f"the teacher gave no score: {score.rationale}")
        return found

    def _asked(self, teacher: Judge, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        start = time.perf_counter()
        scores = teacher.score(requests)
        self.costs.scores += len(requests)
        self.costs.missing_scores += sum(score.level is None for score in scores)
        self.costs.judging_seconds += time.perf_counter() - start
        if len(scores) != len(requests):
            raise ValueError(f"{len(scores)} scores came for {len(requests)} steps")
        for score in scores:
            if score.level is not None and not 0 <= score.level < self.options.score_levels:
                levels = f"expected 0 to {self.options.score_levels - 1}"
                raise ValueError(f"score {score.level} from {score.source!r}: {levels}")
        return scores

    def _reward(self, episode: Episode) -> float:
        """What the step pays that was just made."""
        options = self.options
        grade = episode.f1 if options.outcome == "f1" else episode.exact_match
        outcome = (grade or 0.0) if episode.done else 0.0
        if options.reward == "outcome":
            return outcome
        # A step that is paid when it is made would make stalling pay.
        levels = episode.levels if episode.end_reason == "answered" else []
        verbal = sum(levels) / max(1, len(levels)) / (options.score_levels - 1)
        return verbal if options.reward == "verbal" else outcome + verbal

    def _settle(
        self,
        episodes: Sequence[Episode],
        turns: Sequence[Turn],
        faults: Mapping[int, ServiceUnavailable],
    ) -> None:
        """Take the failed places back, then mark or raise."""
        for place in faults:
            _take_back(episodes[place], turns[place])
        if self.options.on_error == "raise":
            fault = next(iter(faults.values()))
            done = {place: turn for place, turn in enumerate(turns) if place not in faults}
            task = episodes[min(faults)].task.id
            raise type(fault)(
                f"{fault} (place {min(faults)} of the batch, task {task!r})", tuple(faults), done
            ) from fault
        for place, fault in faults.items():
            turn = turns[place]
            turn.observation, turn.documents = "", ()
            turn.score = VerbalScore.missing(str(fault))
            episodes[place].turns.append(turn)
            self.truncate(episodes[place], "infrastructure")


def _check_running(episodes: Sequence[Episode], actions: Sequence[str]) -> None:
    if len(actions) != len(episodes):
        raise ValueError(f"{len(actions)} actions for {len(episodes)} episodes: expected one each")
    for episode in episodes:
        if episode.done:
            raise EpisodeOverError(f"episode of task {episode.task.id!r} is over: begin a new one")


def _invalid(episode: Episode) -> int:
    return sum(turn.kind == "invalid" for turn in episode.turns)


def _length(episode: Episode) -> int:
    said = sum(len(turn.action) + len(turn.observation) for turn in episode.turns)
    return len(episode.prompt) + said


def _take_back(episode: Episode, turn: Turn) -> None:
    """Undo a step that a service failed, so that it may be tried again."""
    if episode.turns and episode.turns[-1] is turn:
        episode.turns.pop()
        episode.terminated = episode.truncated = False
        episode.end_reason = episode.exact_match = episode.f1 = episode.grade_source = None
