"""A search engine of your own: words in common, and no passage twice in one episode.

    cd examples
    ovd train --search own_search_engine:FreshWords --search.path passages.jsonl \\
        --env.tasks questions.jsonl --eval-tasks questions.jsonl --out ../runs/own_search

An engine is asked with the query *and* the episode, as it stood before the turn: this one leaves
out what the student has read already. An engine that needs the query alone, with a method
`search(queries, k)`, is wrapped in `ovd_envs.IndexSearch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ovd_envs import SearchRequest
from ovd_envs.grading.text import normalize
from retrieval_index import Document, read_corpus


@dataclass(frozen=True)
class FreshWords:
    """Ranks passages by the share of the query's words that they hold."""

    path: Path
    """A corpus, as for `ovd index build`."""

    @cached_property
    def passages(self) -> list[tuple[Document, frozenset[str]]]:
        passages = list(read_corpus(str(self.path)))
        return [(each, frozenset(normalize(each.contents).split())) for each in passages]

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document]]:
        return [self._found(request, k) for request in requests]

    def _found(self, request: SearchRequest, k: int) -> list[Document]:
        read = {document.id for turn in request.episode.turns for document in turn.documents}
        words = frozenset(normalize(request.query).split())
        scored = [
            (len(words & held) / max(1, len(words)), document)
            for document, held in self.passages
            if document.id not in read
        ]
        best = sorted((each for each in scored if each[0] > 0), key=lambda each: -each[0])[:k]
        return [Document(each.id, each.title, each.text, score) for score, each in best]
