"""How well an index finds what is known to be relevant, and how fast.

The measures are those of `ir-measures`; runs and judgements are read and written as TREC files.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError, MissingPackageError
from retrieval_index.files import write_atomically
from retrieval_index.index import Mode, PassageIndex
from retrieval_index.jsonl import read_jsonl
from retrieval_index.mentions import mentions
from retrieval_index.progress import note

KS = (1, 5, 10)
_BEIR_TITLES = ["query-id", "corpus-id", "score"]
_TIMED = 200
"""Queries whose latency is measured one by one."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query with its judgements (`relevant`: passage id to grade), or answers, or both."""

    id: str
    text: str
    relevant: Mapping[str, int] = field(default_factory=dict[str, int])
    answers: tuple[str, ...] = ()


Results = Mapping[str, Sequence[Document]]
"""What each query, by its id, found: best first."""


Judgements = Mapping[str, Mapping[str, int]]
"""Passage ids with their grade, by query."""


def read_queries(path: str | Path, judgements: Judgements | None = None) -> list[Query]:
    """Queries from JSON Lines (`.gz` too): `id`, `question` and `supporting` (ids), `relevant`
    (id to grade) or `answers`. BEIR's `_id`, `text` and FlashRAG's `golden_answers` are known.

    `judgements` replace those of the file, and queries without any are left out. Raises
    CorpusError naming file and line.
    """
    source = Path(path)
    if not source.is_file():
        raise CorpusError(f"queries {source}: no such file; expected JSON Lines")
    queries: dict[str, Query] = {}
    for where, row in read_jsonl(source, CorpusError):
        query = _query(row, where)
        if query.id in queries:
            raise CorpusError(f"{where}: another query has the id {query.id!r}; each needs its own")
        queries[query.id] = query
        if judgements is None and not query.relevant and not query.answers:
            raise CorpusError(
                f'{where}: expected "supporting", "relevant" or "answers", or a file of judgements'
            )
    if not queries:
        raise CorpusError(f"queries {source}: there are none in it")
    if judgements is None:
        return list(queries.values())
    return _judged_by(queries, judgements, source)


def _judged_by(queries: dict[str, Query], judgements: Judgements, source: Path) -> list[Query]:
    strange = sorted(judgements.keys() - queries.keys())
    if len(strange) == len(judgements):
        raise CorpusError(
            f"queries {source}: no query has an id of the judgements, such as {strange[:1]}; these"
            " are of other queries"
        )
    if strange:
        note(f"{len(strange):,} judged queries, such as {strange[0]!r}, are not in {source}", None)
    return [
        replace(query, relevant=judgements[name])
        for name, query in queries.items()
        if name in judgements
    ]


_KEYS = {
    "id": ("id", "_id", "query_id"),
    "question": ("question", "text", "query"),
    "answers": ("answers", "golden_answers", "answer"),
}


def _query(row: Any, where: str) -> Query:
    if not isinstance(row, dict):
        raise CorpusError(f'{where}: expected a JSON object with "id" and "question"')
    fields = cast(dict[str, Any], row)
    name, question, answers = (
        next((fields[key] for key in keys if key in fields), None) for keys in _KEYS.values()
    )
    relevant = fields.get("relevant") or dict.fromkeys(map(str, fields.get("supporting") or ()), 1)
    answers = [answers] if isinstance(answers, str) else answers or []
    if not isinstance(name, str | int) or not isinstance(question, str) or not question.strip():
        raise CorpusError(
            f'{where}: expected "id" and "question", found {", ".join(map(repr, fields))}'
        )
    if not all(isinstance(answer, str | int | float) for answer in answers):
        raise CorpusError(f'{where}: "answers" is {answers!r:.100}: expected a list of strings')
    return Query(str(name), question, relevant, tuple(map(str, answers)))


def run_queries(
    index: PassageIndex, queries: Sequence[Query], k: int, mode: Mode | None = None
) -> dict[str, list[Document]]:
    """The `k` best passages for every query, found in one batch."""
    found = index.search([query.text for query in queries], k, mode)
    return {query.id: documents for query, documents in zip(queries, found, strict=True)}


def measure(queries: Sequence[Query], results: Results, ks: Sequence[int] = KS) -> dict[str, float]:
    """Means over queries: recall@k and nDCG@10 and reciprocal rank@10 over those with judgements;
    `hit@k`, whether one of the first k passages says an answer, over those with answers."""
    measured: dict[str, float] = {}
    if any(query.relevant for query in queries):
        measured |= _judged(queries, results, ks)
    answered = [query for query in queries if query.answers]
    for k in ks if answered else ():
        hits = [_says(results.get(query.id, ())[:k], query.answers) for query in answered]
        measured[f"hit@{k}"] = float(np.mean(hits))
    return measured


def _judged(queries: Sequence[Query], results: Results, ks: Sequence[int]) -> dict[str, float]:
    if importlib.util.find_spec("ir_measures") is None:
        raise MissingPackageError("ir-measures", "evaluating an index")
    import ir_measures
    from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

    names = {R @ k: f"recall@{k}" for k in ks} | {nDCG @ 10: "nDCG@10", RR @ 10: "RR@10"}
    judgements = [
        Qrel(query.id, passage, grade)
        for query in queries
        for passage, grade in query.relevant.items()
    ]
    # By rank: the measures would order equal scores by the ids of their passages.
    run = [
        ScoredDoc(query.id, passage, -float(rank))
        for query in queries
        for passage, rank in _ranks(results.get(query.id, ()), query.relevant).items()
    ]
    measured: Any = ir_measures.calc_aggregate(list(names), judgements, run)
    return {name: float(measured[key]) for key, name in names.items()}


def _ranks(documents: Sequence[Document], relevant: Mapping[str, int]) -> dict[str, int]:
    """Where each passage was found; one that was split and is relevant, by its first piece."""
    ranks: dict[str, int] = {}
    for rank, document in enumerate(documents):
        piece = document.id not in relevant and document.source in relevant
        ranks.setdefault(document.source if piece else document.id, rank)
    return ranks


def _says(documents: Sequence[Document], answers: Sequence[str]) -> bool:
    return any(mentions(document.contents, answers) for document in documents)


def latency(
    index: PassageIndex, queries: Sequence[Query], k: int, mode: Mode | None = None
) -> dict[str, float]:
    """Milliseconds of one query at a time (percentiles), and queries/s of all in one batch."""
    texts = [query.text for query in queries]
    index.search(texts[:1], k, mode)
    alone: list[float] = []
    for text in texts[:_TIMED]:
        began = time.perf_counter()
        index.search([text], k, mode)
        alone.append(1e3 * (time.perf_counter() - began))
    began = time.perf_counter()
    index.search(texts, k, mode)
    rate = len(texts) / (time.perf_counter() - began)
    p50, p95, p99 = np.percentile(alone, [50, 95, 99]).tolist()
    return {"p50 ms": p50, "p95 ms": p95, "p99 ms": p99, "queries/s": rate}


def write_run(path: str | Path, results: Results, tag: str = "ovd") -> None:
    """A TREC run file: `query Q0 passage rank score tag`, ranks from 1."""
    lines = (
        f"{query} Q0 {document.id} {rank} {document.score:.6f} {tag}\n"
        for query, documents in results.items()
        for rank, document in enumerate(documents, start=1)
    )
    write_atomically(Path(path), "".join(lines))


def write_qrels(path: str | Path, queries: Sequence[Query]) -> None:
    """A TREC judgements file: `query 0 passage grade`."""
    lines = (
        f"{query.id} 0 {passage} {grade}\n"
        for query in queries
        for passage, grade in query.relevant.items()
    )
    write_atomically(Path(path), "".join(lines))


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Judgements of a TREC file by query, or of BEIR's, which has three columns and a title line.
    Raises CorpusError naming the line."""
    found: dict[str, dict[str, int]] = {}
    for number, line in enumerate(Path(path).read_text("utf-8-sig").splitlines(), start=1):
        fields = line.split()
        if not fields or (number == 1 and fields == _BEIR_TITLES):
            continue
        try:
            query, passage, grade = fields if len(fields) == 3 else (fields[0], *fields[2:])
            found.setdefault(query, {})[passage] = int(float(grade))
        except ValueError:
            raise CorpusError(
                f"{path}:{number}: expected `query 0 passage grade`, or BEIR's `query passage"
                f" grade`, found {line!r}"
            ) from None
    return found
