"""The token-level twin of an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

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
    tokenised again. Mixed authorship is normal: a student's beginning, then a teacher's end.
    `logprobs[i]` is the behaviour log-probability of `ids[i]`, and NaN where the student did not
    write. `version` is that of the policy which sampled.
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
        self.logprobs.extend(logprobs if logprobs is not None else [nan] * len(ids))
        self.segments.append(Segment(author, start, len(self.ids), turn))

    def before(self, turn: int, episode: Episode) -> Trajectory:
        """The tokens of the turns before `turn`, and what the environment said to them, as the
        beginning of the trajectory of `episode`."""
        kept = [segment for segment in self.segments if segment.turn < turn]
        end = kept[-1].end if kept else 0
        return Trajectory(episode, self.version, self.ids[:end], self.logprobs[:end], kept)

    def take_back(self, turn: int, episode: Episode) -> None:
        """Forget the turns from `turn` on; `episode` stands before it."""
        kept = self.before(turn, episode)
        self.episode, self.segments = episode, kept.segments
        self.ids, self.logprobs = kept.ids, kept.logprobs

    def by(self, *authors: Author) -> list[Segment]:
        """The spans that one of `authors` wrote."""
        return [segment for segment in self.segments if segment.author in authors]

    @property
    def written(self) -> list[Segment]:
        """The spans that may be trained on: those of student and teacher."""
        return self.by("student", "teacher")

    @property
    def written_tokens(self) -> int:
        return sum(segment.end - segment.start for segment in self.written)

    @property
    def is_demonstration(self) -> bool:
        """Whether a teacher wrote all that may be trained on."""
        return bool(self.by("teacher")) and not self.by("student")

    def as_rollout(self) -> dict[str, Any]:
        """What TRL, verl and SkyRL ask of a rollout.

        `prompt_ids`; `completion_ids` with everything after the prompt, `env_mask` (1 where the
        student wrote) and `logprobs` (0 where it did not) of the same length; `reward`, None where
        a service failed; `end_reason`, `task_id` and `version`.
        """
        start = self.segments[0].end if self.segments else 0
        mask = [0] * (len(self.ids) - start)
        for segment in self.by("student"):
            mask[segment.start - start : segment.end - start] = [1] * (segment.end - segment.start)
        failed = self.episode.end_reason == "infrastructure"
        return {
            "prompt_ids": self.ids[:start],
            "completion_ids": self.ids[start:],
            "env_mask": mask,
            "logprobs": [p if m else 0.0 for p, m in zip(self.logprobs[start:], mask, strict=True)],
            "reward": None if failed else self.reward,
            "end_reason": self.episode.end_reason,
            "task_id": self.episode.task.id,
            "version": self.version,
        }

    @property
    def reward(self) -> float:
        """The episode's return: the sum of its rewards. Raises ValueError if a service failed, so
        that a fault is never a reward of 0."""
        rewards = [turn.reward for turn in self.episode.turns]
        if None in rewards:
            raise ValueError(f"task {self.episode.task.id!r} ended in a fault and has no reward")
        return sum(reward for reward in rewards if reward is not None)
