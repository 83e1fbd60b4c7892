"""A teacher of tokens with another tokenizer: pieces of text that end alike in both are compared.

Within a piece of several tokens the teacher's log-probability is known of the whole only. Each of
the student's tokens is paid for all of it, as each had a part in it: the gradient of the piece's
reverse divergence. (GOLD merges tokens alike, and adds a loss over the vocabulary.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ovd_agent.learner.references import FrozenModel, Wants
from ovd_agent.learner.rows import AUTHORS, BEHAVIOUR, TrainingRow
from ovd_agent.rollouts.encoding import encode

_ASKED = "asked"
_BROKEN = "�"
"""How a tokenizer decodes bytes that are no whole character yet."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `student[0]` to `student[1]` of a row, and `teacher[0]` to `teacher[1]` of the
    teacher's, that say the same text."""

    student: tuple[int, int]
    teacher: tuple[int, int]


@dataclass(slots=True)
class Read:
    """A row in the teacher's tokens, and the pieces of what the student wrote."""

    ids: list[int] = field(default_factory=list[int])
    pieces: list[Piece] = field(default_factory=list[Piece])


@dataclass(slots=True)
class AlignedModel:
    """A reference in this process that reads a row's text by its own tokenizer.

    The prompt is read as the student's text of it, chat markup included, so a teacher whose markup
    is the student's understands it best.
    """

    frozen: FrozenModel
    theirs: PreTrainedTokenizerBase
    student: PreTrainedTokenizerBase

    def measure(self, rows: Sequence[TrainingRow], wants: Wants) -> int:
        """Fill `logprobs_NAME` so that, with the log-probabilities at which the student sampled,
        every token of a piece has the advantage of the piece: the teacher's log-probability of its
        text less the student's. A token of no piece loses its weight."""
        asked = [row for row in rows if row.has(wants.where).any()]
        read = [self.read(row) for row in asked]
        marked: list[TrainingRow] = []
        for each in read:
            mark = TrainingRow.blank(each.ids, "demonstration")
            for piece in each.pieces:
                mark.stream(_ASKED)[slice(*piece.teacher)] = 1.0
            marked.append(mark)
        self.frozen.measure(marked, Wants(_ASKED))
        name = f"logprobs_{self.frozen.name}"
        for row, each, mark in zip(asked, read, marked, strict=True):
            found = mark.streams.get(name, np.zeros(len(each.ids)))
            row.streams[name], paid = paid_by_pieces(row, each.pieces, found)
            row.stream(wants.where)[~paid] = 0.0
        return 0

    def read(self, row: TrainingRow) -> Read:
        """The row as the teacher reads it: the text of each part by itself, so that what somebody
        wrote ends at the end of a token."""
        found = Read()
        for start, end in runs(row):
            ids = row.ids[start:end]
            if row.authors[start] != AUTHORS.index("student"):
                found.ids += self._retold(ids)
                continue
            while ids and ids[-1] in self.student.all_special_ids:
                ids = ids[:-1]  # an end of turn is no text, and each family has its own
            theirs = encode(self.theirs, _text(self.student, ids))
            found.pieces += [
                Piece((start + a, start + b), (len(found.ids) + c, len(found.ids) + d))
                for a, b, c, d in aligned(self.student, ids, self.theirs, theirs)
            ]
            found.ids += theirs
        return found

    def _retold(self, ids: Sequence[int]) -> list[int]:
        """What the student did not write. A control token stays one where both families spell it
        alike; text that spells one does not become it."""
        found: list[int] = []
        special = set(self.student.all_special_ids)
        theirs: Any = self.theirs
        controls: dict[str, int] = theirs.get_added_vocab()
        for control, some in groupby(ids, lambda token: token in special):
            for part in [[token] for token in some] if control else [list(some)]:
                text = _text(self.student, part)
                known = controls.get(text) if control else None
                found += encode(self.theirs, text) if known is None else [known]
        return found


def paid_by_pieces(
    row: TrainingRow, pieces: Sequence[Piece], found: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The stream of a row from the teacher's log-probabilities `found` of its own tokens, and which
    tokens have one."""
    stream, paid = np.zeros(len(row.ids)), np.zeros(len(row.ids), dtype=np.bool_)
    behaviour = row.stream(BEHAVIOUR).astype(np.float64)
    for piece in pieces:
        mine = slice(*piece.student)
        said = behaviour[mine]
        # Of a token, the learner subtracts what the student gives it: the others' share is here.
        stream[mine] = found[slice(*piece.teacher)].sum() - (said.sum() - said)
        paid[mine] = np.isfinite(said).all()
    stream[~paid] = 0.0
    return stream, paid


def runs(row: TrainingRow) -> list[tuple[int, int]]:
    """The parts of a row that one author wrote in one turn."""
    turns = np.zeros(len(row.ids), dtype=np.int16) if row.turns is None else row.turns
    changes = np.flatnonzero(np.diff(row.authors) | np.diff(turns)) + 1
    return list(pairwise([0, *changes.tolist(), len(row.ids)]))


def aligned(
    one: PreTrainedTokenizerBase,
    ids: Sequence[int],
    other: PreTrainedTokenizerBase,
    theirs: Sequence[int],
) -> list[tuple[int, int, int, int]]:
    """The shortest parts of two token sequences of one text that say the same, in order: from where
    to where in `ids`, and in `theirs`."""
    mine, yours = ends(one, ids), ends(other, theirs)
    shared = sorted(mine.keys() & yours.keys())
    return [(mine[a], mine[b], yours[a], yours[b]) for a, b in pairwise(shared)]


def ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> dict[str, int]:
    """How many tokens say each beginning of a text that ends with a token and a whole character."""
    found = {"": 0}
    for count in range(1, len(ids) + 1):
        text = _text(tokenizer, ids[:count])
        if not text.endswith(_BROKEN):
            found[text] = count
    return found


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    found = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return found if isinstance(found, str) else "".join(found)


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids to the same text."""
    return one.get_vocab() == other.get_vocab()
