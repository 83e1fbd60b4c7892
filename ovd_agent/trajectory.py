"""The token-level twin of an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ovd_envs.episode import Episode

Author = Literal["prompt", "student", "teacher", "environment"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Who wrote `ids[start:end]`, and in which turn (-1 for the prompt)."""

    author: Author
    start: int
    end: int
    turn: int


@dataclass(slots=True)
class Trajectory:
    """The token-level twin of an episode: one growing id list.

    Ids are only ever appended: what was sampled is what is trained on, nothing is decoded and
    tokenised again. `logprobs[i]` is the behaviour log-probability of `ids[i]`, and 0 where the
    student did not write. `version` is that of the policy which sampled.
    """

    episode: Episode
    version: int = 0
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    segments: list[Segment] = field(default_factory=list[Segment])

    def append(
        self, author: Author, ids: list[int], turn: int, logprobs: list[float] | None = None
    ) -> None:
        """Append a span. Student spans need one behaviour log-probability per id, others none."""
        if (logprobs is not None) != (author == "student"):
            raise ValueError(f"behaviour log-probabilities belong to the student, not the {author}")
        if logprobs is not None and len(logprobs) != len(ids):
            raise ValueError(f"{len(ids)} ids came with {len(logprobs)} log-probabilities")
        start = len(self.ids)
        self.ids.extend(ids)
        self.logprobs.extend(logprobs if logprobs is not None else [0.0] * len(ids))
        self.segments.append(Segment(author, start, len(self.ids), turn))

    @property
    def written(self) -> list[Segment]:
        """The spans that are trained on: the student's or, in a demonstration, the teacher's."""
        return [segment for segment in self.segments if segment.author in ("student", "teacher")]

    @property
    def written_tokens(self) -> int:
        return sum(segment.end - segment.start for segment in self.written)

    @property
    def is_demonstration(self) -> bool:
        return any(segment.author == "teacher" for segment in self.segments)

    @property
    def reward(self) -> float:
        """The episode's return: the sum of its rewards. Raises ValueError if a service failed, so
        that a fault is never a reward of 0."""
        rewards = [turn.reward for turn in self.episode.turns]
        if None in rewards:
            raise ValueError(f"task {self.episode.task.id!r} ended in a fault and has no reward")
        return sum(reward for reward in rewards if reward is not None)
