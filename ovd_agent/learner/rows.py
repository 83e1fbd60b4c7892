"""Training rows: what each token contributes, said by algorithms and summed by the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kind = Literal["student", "rejected", "demonstration"]
"""Whose play it is; "rejected" is a student's that is trained on all the same."""
STREAMS = ("pg", "ce", "kl", "shaped")


@dataclass(slots=True)
class TrainingRow:
    """Token ids with what each contributes to the loss; all arrays have the length of `ids`.

    The loss of an optimiser step is the sum over rows, copies and tokens t of
        - pg[t] · min(ratio · A, clip(ratio) · A)  - ce[t] · log p(t)  + kl[t] · k3(t)
        - shaped[t] · p(t) / (p(t) + 0.1)
    divided by the step's one denominator; A is `advantage[t]`. A weight of 0 masks a token out of
    a component. Index t weighs the prediction *of* `ids[t]`; index 0 is never predicted.
    `behaviour` (log-probabilities) is NaN where no behaviour policy is known: then the ratio is 1
    by definition, log p - stop_gradient(log p). A row counts `copies` times, in the loss and in
    the denominator, and is computed once. `group` and `episode` say where it came from.
    """

    ids: list[int]
    kind: Kind
    pg: Floats
    ce: Floats
    kl: Floats
    shaped: Floats
    advantage: Floats
    behaviour: Floats
    copies: int = 1
    group: str = ""
    episode: int = 0
    version: int = 0

    @classmethod
    def blank(cls, ids: list[int], kind: Kind) -> TrainingRow:
        """A row that trains nothing yet; algorithms fill in the weights."""
        pg, ce, kl, shaped, advantage = np.zeros((5, len(ids)), dtype=np.float32)
        unknown = np.full(len(ids), np.nan, dtype=np.float32)
        return cls(ids, kind, pg, ce, kl, shaped, advantage, unknown)

    @property
    def weighed(self) -> NDArray[np.bool_]:
        """Tokens that count in the denominator: those with any weight."""
        return np.logical_or.reduce([getattr(self, name) != 0 for name in STREAMS])

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Tokens with a gradient: a policy gradient with advantage 0 has none."""
        policy = (self.pg != 0) & (self.advantage != 0)
        return policy | (self.ce != 0) | (self.kl != 0) | (self.shaped != 0)

    @property
    def weighed_tokens(self) -> int:
        return self.copies * int(self.weighed.sum())

    def check(self) -> None:
        """Raise ValueError if the row cannot mean what it says."""
        where = f"row of group {self.group!r}, episode {self.episode}"
        size = len(self.ids)
        for name in (*STREAMS, "advantage", "behaviour"):
            array: Floats = getattr(self, name)
            if array.shape != (size,):
                raise ValueError(f"{where}: {name} has shape {array.shape}, expected ({size},)")
            if name != "behaviour" and not np.isfinite(array).all():
                raise ValueError(f"{where}: {name} has a value that is not finite")
            if name in STREAMS and (array < 0).any():
                raise ValueError(f"{where}: {name} has a negative weight; negate the advantage")
        if size and self.weighed[0]:
            raise ValueError(f"{where}: its first token has no prediction and cannot be weighed")
        if self.kind == "demonstration" and np.isfinite(self.behaviour).any():
            raise ValueError(
                f"{where}: a demonstration has behaviour log-probabilities, but the student did"
                " not sample it: leave them NaN"
            )


def denominator(rows: Sequence[TrainingRow], per: Literal["tokens", "rows"]) -> float:
    """What the loss of one optimiser step is divided by: its weighed tokens, or the rows that have
    any, copies counted."""
    weighed = [row for row in rows if row.weighed.any()]
    if per == "rows":
        return float(max(1, sum(row.copies for row in weighed)))
    return float(max(1, sum(row.weighed_tokens for row in weighed)))
