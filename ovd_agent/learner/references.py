"""Models that an algorithm may ask and that are never trained: what would the student have been at
the start, what does a teacher of tokens say?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ovd_agent.learner.batches import MicroBatch, micro_batches
from ovd_agent.learner.logprobs import LOGIT_BUDGET, token_logprobs
from ovd_agent.learner.overlap import overlaps
from ovd_agent.learner.rows import AUTHORS, TrainingRow
from ovd_agent.losses.cross_entropy import CrossEntropy


@dataclass(frozen=True, slots=True)
class Wants:
    """What an algorithm wants of a reference: log-probabilities of the ids of its rows, where the
    stream `where` is not 0. They become the stream `logprobs_NAME`.

    `model` is what `--student` takes too, or the address of a server, `MODEL@http://HOST:PORT`; by
    default it is the student as the run began. With `whole` nothing is measured beforehand: a
    component of the loss reads the model's whole distribution beside that of the student. With
    `told` the reference reads a row's `told` in place of its prompt. With `aligned` the model may
    have another tokenizer (`ovd_agent.learner.aligned`). With `overlap` a model in this process
    also writes `TrainingRow.overlap`.
    """

    where: str
    model: str = ""
    whole: bool = False
    told: bool = False
    aligned: bool = False
    overlap: bool = False

    @property
    def served(self) -> bool:
        return "://" in self.model


class Reference(Protocol):
    """Something that measures log-probabilities."""

    def measure(self, rows: Sequence[TrainingRow], wants: Wants) -> int:
        """Fill the stream `logprobs_NAME` of every row that has a weight in `wants.where`; nothing
        where the loss reads the whole distribution itself.

        A row that could not be measured loses its weight there; returns how many did.
        """
        ...


@dataclass(slots=True)
class Asked:
    """A row as a reference reads it: `ids`, and the `places` in them whose log-probabilities are
    wanted."""

    row: TrainingRow
    ids: list[int]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[TrainingRow], wants: Wants) -> list[Asked]:
        """The rows that have a weight there."""
        found: list[Asked] = []
        for row in rows:
            places = np.flatnonzero(row.has(wants.where))
            if len(places):
                prompt = int((row.authors == AUTHORS.index("prompt")).sum()) if wants.told else 0
                ids = row.told + row.ids[prompt:] if wants.told else row.ids
                found.append(cls(row, ids, places + len(ids) - len(row.ids)))
        return found

    def fill(self, name: str, logprobs: NDArray[np.float64]) -> None:
        """Write what was measured, one number for each of `places`."""
        stream = np.zeros(len(self.row.ids))
        stream[self.places - len(self.ids) + len(self.row.ids)] = logprobs
        self.row.streams[f"logprobs_{name}"] = stream


@dataclass(slots=True)
class FrozenModel:
    """A reference in this process, and the student as it is now, with which it is compared."""

    name: str
    model: PreTrainedModel
    temperature: float = 1.0
    token_budget: int = 2048
    logit_budget: int = LOGIT_BUDGET
    autocast: bool = False
    student: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        self.model.eval()  # without dropout

    @torch.no_grad()
    def measure(self, rows: Sequence[TrainingRow], wants: Wants) -> int:
        asked = Asked.of(rows, wants)
        if not wants.whole:
            for batch in self._batches(asked):
                with self._precision():
                    measured = token_logprobs(
                        self.model, batch, self.temperature, self.logit_budget
                    )
                found = measured.logprobs.double().cpu().numpy()
                for index, count in batch.rows:
                    values, found = found[:count], found[count:]
                    asked[index].fill(self.name, values)
        if wants.overlap:
            self._compare(asked)
        return 0

    def _compare(self, asked: Sequence[Asked]) -> None:
        assert self.student is not None
        for batch in self._batches(asked):
            with self._precision():
                found = overlaps(self.student, self.model, batch, self.logit_budget)
            for index, overlap in found.items():
                asked[index].row.overlap = overlap

    def _batches(self, asked: Sequence[Asked]) -> Iterator[MicroBatch]:
        marked: list[TrainingRow] = []
        for each in asked:
            mark = TrainingRow.blank(each.ids, "demonstration")
            mark.stream(CrossEntropy.weight)[each.places] = 1.0
            marked.append(mark)
        return micro_batches(
            marked, (CrossEntropy(),), [1.0] * len(marked), self.token_budget, self.model.device
        )

    def _precision(self) -> AbstractContextManager[object]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.model.device.type, torch.bfloat16)
