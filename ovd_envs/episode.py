"""What an episode is made of: plain data that goes to one JSON line and back, exactly."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from json.encoder import encode_basestring_ascii as json_text
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from retrieval_index.documents import Document
from retrieval_index.files import write_atomically

ActionKind = Literal["search", "answer", "think", "invalid"]
EndReason = Literal["answered", "turn_limit", "invalid_limit", "length_limit", "infrastructure"]
MISSING = "missing"
"""The `source` of a score that a teacher failed to give."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question or problem, immutable.

    `answers` holds every accepted answer. `hops` counts reasoning steps (search hops, or the
    level of a math problem; 0 if unknown). `supporting` names the gold passages.
    `metadata` is JSON-able; privileged teachers read it, students never see it.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    hops: int = 0
    supporting: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __deepcopy__(self, memo: object) -> Task:
        return self


@dataclass(frozen=True, slots=True)
class VerbalScore:
    """A teacher's judgement of one step: `level` in 0..v-1, or None when `source` is "missing".

    `expected` is the mean level under the teacher's own probabilities (equal to `level` for
    teachers that give none).
    """

    level: int | None
    expected: float | None
    rationale: str = ""
    source: str = ""

    @classmethod
    def missing(cls, why: str) -> VerbalScore:
        return cls(None, None, why, MISSING)


@dataclass(slots=True)
class Turn:
    """One student action and all that came back."""

    action: str
    kind: ActionKind
    content: str
    """The query, the answer or the thought; for an invalid action, what was wrong with it."""
    discarded_chars: int = 0
    """How much text followed the tag that decided the turn, and was not read."""
    observation: str = ""
    documents: tuple[Document, ...] = ()
    score: VerbalScore | None = None
    reward: float | None = None
    """None if a service failed and the turn could not be judged."""


@dataclass(slots=True)
class Episode:
    """A task being played. `prompt` is the first observation; the fields after `turns` are set at
    the end (`exact_match` and `f1` are 0.0 when the episode was truncated without an answer, and
    None when it ended because a service failed)."""

    task: Task
    prompt: str
    seed: int = 0
    turns: list[Turn] = field(default_factory=list[Turn])
    terminated: bool = False
    truncated: bool = False
    end_reason: EndReason | None = None
    exact_match: float | None = None
    f1: float | None = None
    grade_source: str | None = None
    """How the answer was compared: "text", "number", "math-verify", or why not: "timeout" where
    that hung, "error" where it failed."""
    rubric: str = ""
    """The scenario's name for what makes a step good."""

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated

    @property
    def answer(self) -> str | None:
        """The answer the student gave, if it gave one."""
        return self.turns[-1].content if self.turns and self.turns[-1].kind == "answer" else None

    @property
    def levels(self) -> list[int]:
        """The verbal scores of its steps, in order, without the missing ones."""
        scores = (turn.score.level for turn in self.turns if turn.score)
        return [level for level in scores if level is not None]

    @property
    def expected_scores(self) -> list[float]:
        """The teacher's expected scores of its steps, in order, without the missing ones."""
        scores = (turn.score.expected for turn in self.turns if turn.score)
        return [score for score in scores if score is not None]

    def to_json(self) -> str:
        """One line of ASCII JSON: even a lone surrogate in an action survives the trip."""
        return _episode_json(self)

    @classmethod
    def from_json(cls, line: str) -> Episode:
        data: dict[str, Any] = json.loads(line)
        for name in ("answers", "supporting"):
            data["task"][name] = tuple(data["task"][name])
        data["task"] = Task(**data["task"])
        data["turns"] = [_turn_from(turn) for turn in data["turns"]]
        return cls(**data)


_ENCODER = json.JSONEncoder(allow_nan=False)


# Records are written field by field: `dataclasses.asdict` and the encoder's walk through nested
# dicts take longer than all the rest of an episode.


def _episode_json(episode: Episode) -> str:
    return (
        f'{{"task": {_task_json(episode.task)}, "prompt": {json_text(episode.prompt)}, '
        f'"seed": {episode.seed}, "turns": [{", ".join(map(_turn_json, episode.turns))}], '
        f'"terminated": {_truth(episode.terminated)}, "truncated": {_truth(episode.truncated)}, '
        f'"end_reason": {_name(episode.end_reason)}, '
        f'"exact_match": {_number(episode.exact_match)}, "f1": {_number(episode.f1)}, '
        f'"grade_source": {_name(episode.grade_source)}, "rubric": {json_text(episode.rubric)}}}'
    )


def _task_json(task: Task) -> str:
    return (
        f'{{"id": {json_text(task.id)}, "prompt": {json_text(task.prompt)}, '
        f'"answers": {_texts(task.answers)}, "hops": {task.hops}, '
        f'"supporting": {_texts(task.supporting)}, '
        f'"metadata": {_ENCODER.encode(task.metadata)}}}'
    )


@lru_cache(maxsize=4096)  # for the info and the record; and rollouts of a question find the same
def documents_json(documents: tuple[Document, ...]) -> str:
    """Documents as one line of JSON."""
    return f"[{', '.join(map(_document_json, documents))}]"


def _document_json(document: Document) -> str:
    return (
        f'{{"id": {json_text(document.id)}, "title": {json_text(document.title)}, '
        f'"text": {json_text(document.text)}, "score": {_number(document.score)}}}'
    )


def _score_json(score: VerbalScore) -> str:
    return (
        f'{{"level": {_number(score.level)}, "expected": {_number(score.expected)}, '
        f'"rationale": {json_text(score.rationale)}, "source": {json_text(score.source)}}}'
    )


def _turn_json(turn: Turn) -> str:
    score = "null" if turn.score is None else _score_json(turn.score)
    return (
        f'{{"action": {json_text(turn.action)}, "kind": "{turn.kind}", '
        f'"content": {json_text(turn.content)}, "discarded_chars": {turn.discarded_chars}, '
        f'"observation": {json_text(turn.observation)}, '
        f'"documents": {documents_json(turn.documents)}, '
        f'"score": {score}, "reward": {_number(turn.reward)}}}'
    )


def _texts(values: Iterable[str]) -> str:
    return f"[{', '.join(map(json_text, values))}]"


def _name(value: str | None) -> str:
    return "null" if value is None else json_text(value)


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _number(value: float | None) -> str:
    if value is None:
        return "null"
    if not isfinite(value):
        raise ValueError(f"{value} has no place in JSON: an episode's numbers are finite")
    # Of numpy's subclasses, too, whose own repr says more than the number.
    return int.__repr__(value) if isinstance(value, int) else float.__repr__(value)


def _turn_from(data: dict[str, Any]) -> Turn:
    data["documents"] = tuple(Document(**document) for document in data["documents"])
    data["score"] = None if data["score"] is None else VerbalScore(**data["score"])
    return Turn(**data)


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write JSON Lines atomically."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, "".join(episode.to_json() + "\n" for episode in episodes))


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Read what `write_episodes` wrote. Raises ValueError naming file and line on bad JSON."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Episode.from_json(line.decode("ascii"))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                why = f"no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path}, line {number}: not an episode record: {why}") from None
