"""The plain data of an episode: task, turns, scores; exact to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ActionKind = Literal["search", "answer", "think", "invalid"]

MISSING = "missing"
"""`VerbalScore.source` of a step whose teacher failed: its `level` and `expected` are None."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question or problem with what is needed to grade it.

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


@dataclass(frozen=True, slots=True)
class Document:
    """A passage returned by a search engine; a higher `score` is a better match."""

    id: str
    title: str
    text: str
    score: float = 0.0


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
    observation: str = ""
    documents: tuple[Document, ...] = ()
    score: VerbalScore | None = None
    reward: float = 0.0


@dataclass(slots=True)
class Episode:
    """A task being played. `prompt` is the first observation; `exact_match` and `f1` are set at
    the end (0.0 when the episode was truncated without an answer)."""

    task: Task
    prompt: str
    seed: int = 0
    turns: list[Turn] = field(default_factory=list[Turn])
    terminated: bool = False
    truncated: bool = False
    exact_match: float | None = None
    f1: float | None = None

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated

    @property
    def answer(self) -> str | None:
        """The answer the student gave, if it gave one."""
        return self.turns[-1].content if self.turns and self.turns[-1].kind == "answer" else None

    def to_json(self) -> str:
        """One line of ASCII JSON: even a lone surrogate in an action survives the trip."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Episode:
        data: dict[str, Any] = json.loads(line)
        for name in ("answers", "supporting"):
            data["task"][name] = tuple(data["task"][name])
        data["task"] = Task(**data["task"])
        data["turns"] = [_turn_from(turn) for turn in data["turns"]]
        return cls(**data)


def _turn_from(data: dict[str, Any]) -> Turn:
    data["documents"] = tuple(Document(**document) for document in data["documents"])
    data["score"] = None if data["score"] is None else VerbalScore(**data["score"])
    return Turn(**data)


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write JSON Lines atomically (a temporary file, then a rename)."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("w", encoding="ascii") as file:
        file.writelines(episode.to_json() + "\n" for episode in episodes)
    temporary.replace(target)


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Read what `write_episodes` wrote. Raises ValueError naming file and line on bad JSON."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Episode.from_json(line.decode("ascii"))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                why = f"no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path}, line {number}: not an episode record: {why}") from None
