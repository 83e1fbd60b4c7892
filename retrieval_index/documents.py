"""What is searched for: a passage, and what a search returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Document:
    """A passage of a corpus; as a search result, with its `score` (higher is a better match)."""

    id: str
    title: str
    text: str
    score: float = 0.0

    @property
    def source(self) -> str:
        """The id of the passage that this is a piece of ("x" of "x#3"), or its own."""
        whole, _, piece = self.id.rpartition("#")
        return whole if whole and piece.isdecimal() else self.id

    @property
    def contents(self) -> str:
        """What an encoder reads: title and text."""
        return f"{self.title}\n{self.text}" if self.title else self.text
