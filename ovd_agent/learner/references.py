"""Frozen models that an algorithm may ask: what would the student have been at the start?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from ovd_agent.learner.batches import micro_batches
from ovd_agent.learner.logprobs import LOGIT_BUDGET, token_logprobs
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.cross_entropy import CrossEntropy


@dataclass(frozen=True, slots=True)
class Wants:
    """What an algorithm wants of a reference: log-probabilities of the ids of its rows, where the
    stream `where` is not 0. They become the stream `logprobs_NAME`.

    `model` is what `--student` takes too; by default it is the student as the run began. With
    `whole` nothing is measured beforehand: a component of the loss reads the model's whole
    distribution beside that of the student.
    """

    where: str
    model: str = ""
    whole: bool = False


@dataclass(slots=True)
class FrozenModel:
    """A reference: a model that is asked and never trained."""

    name: str
    model: PreTrainedModel
    temperature: float = 1.0
    token_budget: int = 2048
    logit_budget: int = LOGIT_BUDGET
    autocast: bool = False

    def __post_init__(self) -> None:
        self.model.eval()  # without dropout

    @torch.no_grad()
    def measure(self, rows: Sequence[TrainingRow], wants: Wants) -> None:
        """Fill the stream `logprobs_NAME` of every row that has a weight in `wants.where`; nothing
        where the loss reads the whole distribution itself."""
        if wants.whole:
            return
        asked = [row for row in rows if row.has(wants.where).any()]
        marked: list[TrainingRow] = []
        for row in asked:
            mark = TrainingRow.blank(row.ids, "demonstration")
            mark.stream(CrossEntropy.weight)[:] = row.has(wants.where)
            marked.append(mark)
        device = self.model.device
        precision = torch.autocast(device.type, torch.bfloat16) if self.autocast else nullcontext()
        for batch in micro_batches(
            marked, (CrossEntropy(),), [1.0] * len(marked), self.token_budget, device
        ):
            with precision:
                measured = token_logprobs(self.model, batch, self.temperature, self.logit_budget)
            found = measured.logprobs.double().cpu().numpy()
            for index, count in batch.rows:
                row, (values, found) = asked[index], (found[:count], found[count:])
                stream = np.zeros(len(row.ids))
                stream[row.has(wants.where)] = values
                row.streams[f"logprobs_{self.name}"] = stream
