"""Training rows: what each token contributes, said by algorithms and summed by the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ovd_agent.losses.base import LossComponent

Kind = Literal["student", "rejected", "continued", "demonstration"]
"""What became of a play; "rejected" is a student's that is trained on all the same, "continued" one
that the teacher played to its end."""
AUTHORS = ("prompt", "student", "teacher", "environment")
ADVANTAGE = "advantage"
BEHAVIOUR = "behaviour"
"""Log-probabilities at which the student sampled its tokens; NaN where it did not."""
NAN_ALLOWED = (BEHAVIOUR,)


@dataclass(slots=True)
class TrainingRow:
    """Token ids with what each contributes to the loss.

    `streams` are arrays [n] or [n, K] by name, n the number of ids; each belongs to one component
    of the loss (`ovd_agent.losses`). A component's weight stream is never negative, and 0 masks a
    token out of it. Index t says something of the prediction *of* `ids[t]`; index 0 is never
    predicted. `authors` [n] says who wrote each id, as an index of AUTHORS: a row may begin with
    the student's tokens and go on with the teacher's. A row counts `copies` times, in the loss and
    in the divisor, and is computed once. `group` and `version` say where it came from. `told` are
    ids that a reference may read in place of the prompt: a prompt that tells more. `turns` [n] says
    in which turn of an episode each id was written, -1 for the prompt; None where there is none.
    `overlap` is the share of the likeliest tokens that the student has in common with a reference
    that was asked for it, NaN where none was.
    """

    ids: list[int]
    kind: Kind
    authors: NDArray[np.int8]
    streams: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    copies: int = 1
    group: str = ""
    version: int = 0
    told: list[int] = field(default_factory=list[int])
    turns: NDArray[np.int16] | None = None
    overlap: float = np.nan

    @classmethod
    def blank(
        cls, ids: list[int], kind: Kind, authors: NDArray[np.int8] | None = None
    ) -> TrainingRow:
        """A row that trains nothing yet. Without `authors`, all ids of a demonstration are the
        teacher's and those of other rows the student's."""
        if authors is None:
            author = "teacher" if kind == "demonstration" else "student"
            authors = np.full(len(ids), AUTHORS.index(author), dtype=np.int8)
        return cls(ids, kind, authors)

    def stream(self, name: str) -> NDArray[Any]:
        """A stream to write to, in float32; at first 0 everywhere, the behaviour NaN."""
        if name not in self.streams:
            fill = np.nan if name in NAN_ALLOWED else 0.0
            self.streams[name] = np.full(len(self.ids), fill, dtype=np.float32)
        return self.streams[name]

    def has(self, name: str) -> NDArray[np.bool_]:
        """Where a stream is not 0."""
        if name not in self.streams:
            return np.zeros(len(self.ids), dtype=np.bool_)
        return self.streams[name] != 0

    def weighted(self, losses: Sequence[LossComponent]) -> NDArray[np.bool_]:
        """Tokens that count in the divisor: those with a weight in any component."""
        return _any([self.has(each.weight) for each in losses], len(self.ids))

    def trained(self, losses: Sequence[LossComponent]) -> NDArray[np.bool_]:
        """Tokens with a gradient."""
        return _any([each.trained(self) for each in losses], len(self.ids))

    def wrote(self, *authors: str) -> NDArray[np.bool_]:
        """The tokens that one of `authors` wrote."""
        return np.isin(self.authors, [AUTHORS.index(author) for author in authors])

    def check(self, losses: Sequence[LossComponent]) -> None:
        """Raise ValueError if the row cannot mean what it says."""
        where = f"a row of group {self.group!r}"
        size = len(self.ids)
        known = {name for each in losses for name in (each.weight, *each.streams)}
        known |= {each.candidates for each in losses if each.candidates}
        for name, array in self.streams.items():
            if name not in known:
                raise ValueError(
                    f"{where} has a stream {name!r}, which no component of the loss reads: expected"
                    f" one of {', '.join(sorted(known))}"
                )
            if array.shape[:1] != (size,):
                raise ValueError(f"{where}: {name} has shape {array.shape}, expected ({size},)")
            if name not in NAN_ALLOWED and not np.isfinite(array).all():
                raise ValueError(f"{where}: {name} has a value that is not finite")
        for each in losses:
            if each.weight in self.streams and (self.streams[each.weight] < 0).any():
                raise ValueError(
                    f"{where}: {each.weight} has a negative weight; negate the advantage instead"
                )
        self._check_authors(where, self.weighted(losses))
        for each in losses:
            for name in each.required:
                if name not in self.streams and self.has(each.weight).any():
                    raise ValueError(
                        f"{where} has a weight {each.weight}, but nobody measured {name}: name the"
                        " reference in the algorithm's needs"
                    )

    def _check_authors(self, where: str, weighted: NDArray[np.bool_]) -> None:
        if len(self.ids) and weighted[0]:
            raise ValueError(f"{where}: its first token has no prediction and cannot be weighted")
        if (weighted & ~self.wrote("student", "teacher")).any():
            raise ValueError(
                f"{where}: a token of the prompt or the environment is weighted; only what student"
                " or teacher wrote is trained on"
            )
        behaviour = self.streams.get(BEHAVIOUR)
        if behaviour is not None and (~np.isnan(behaviour) & ~self.wrote("student")).any():
            raise ValueError(
                f"{where}: a token that the student did not write has a behaviour log-probability,"
                " though the student did not sample it: leave it NaN"
            )


LossPer = Literal["tokens", "rows", "row_means"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Weighted tokens, and rows that have any; a row counts as often as it has copies."""

    tokens: int
    rows: int

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], losses: Sequence[LossComponent]) -> Counts:
        counts = [(row.copies, int(row.weighted(losses).sum())) for row in rows]
        return cls(
            sum(copies * tokens for copies, tokens in counts),
            sum(copies for copies, tokens in counts if tokens),
        )


def divisors(
    rows: Sequence[TrainingRow],
    losses: Sequence[LossComponent],
    per: LossPer,
    counts: Counts | None = None,
) -> list[float]:
    """What the loss of each row is divided by in one optimiser step.

    "tokens": the weighted tokens of the step (DAPO). "rows": its rows that have any. "row_means":
    the row's own tokens times the rows, so that each row counts as its mean (GRPO's 1/|y|).
    `counts` are those of the whole step, where `rows` are the part of one process.
    """
    whole = counts or Counts.of(rows, losses)
    if per == "tokens":
        return [float(max(1, whole.tokens))] * len(rows)
    count = float(max(1, whole.rows))
    if per == "rows":
        return [count] * len(rows)
    return [count * max(1, int(row.weighted(losses).sum())) for row in rows]


def _any(masks: Sequence[NDArray[np.bool_]], size: int) -> NDArray[np.bool_]:
    return np.logical_or.reduce(masks) if masks else np.zeros(size, dtype=np.bool_)
