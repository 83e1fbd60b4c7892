"""Passages by rules, from the task alone: a hop that the query asks for is stated, or misstated."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from ovd_envs.episode import Task
from ovd_envs.search.simulated.base import WriteRequest
from ovd_envs.search.simulated.queries import asked_for, hops_of
from ovd_envs.tasks.fiction import PLAIN, RELATIONS, World
from retrieval_index.mentions import mentions

_TRIES = 20
_NAMES = 2000
"""Passages of the world that invented names are taken from."""
_STATED = (PLAIN, "{s} is known for one thing above all: its {r} is {o}.")
_KNOWN = {relation.name: relation for of_kind in RELATIONS.values() for relation in of_kind}
"""Relations of the world, which are stated as its passages state them."""


class RuleWriter:
    """Writes for tasks with a chain of hops (`metadata["chain"]`: query and answer of each), and
    for others from question and answer.

    Useful passages state the hop that the query asks for, among other statements about the same
    subject. Noisy ones are of the same form and state another value. A query that asks for no hop
    brings passages about something else, useful or not: so no query without content brings an
    answer.
    """

    def __init__(self, seed: int = 0) -> None:
        self._world = World(_NAMES, seed)

    def write(self, requests: Sequence[WriteRequest]) -> list[list[tuple[str, str]] | None]:
        return [self._write(request) for request in requests]

    def _write(self, request: WriteRequest) -> list[tuple[str, str]]:
        found = asked_for(request.query, request.episode.task)
        rng = random.Random(request.seed)
        others = [self._about_another(request, rng) for _ in range(request.count)]
        if found is None or found[1] == 0:  # nothing, or a name alone
            return others
        relation, subject, value = found[0]
        if not request.useful:
            value = self._another(relation, value, request.episode.task.answers, rng)
        return [self._article(subject, relation, value, request), *others[1:]]

    def _article(
        self, subject: str, relation: str, value: str, request: WriteRequest
    ) -> tuple[str, str]:
        """The statement among others, which are the same for a subject whatever is asked."""
        rng = random.Random(f"{subject} {relation}")
        sentences = [rng.choice(_forms(relation)).format(r=relation, s=subject, o=value)]
        for each in _relations_beside(relation):
            other = self._value(each, subject, request.episode.task)
            sentence = random.Random(f"{subject} {each}").choice(_forms(each))
            sentences.append(sentence.format(r=each, s=subject, o=other))
        rng.shuffle(sentences)
        return subject, _about(" ".join(sentences), sentences, value, request.words)

    def _value(self, relation: str, subject: str, task: Task) -> str:
        """Of a relation that is a hop of the task its true value, else an invented one."""
        for known, about, value in hops_of(task):
            if (known, about) == (relation, subject):
                return value
        return self._invented(relation, random.Random(f"{relation} {subject}"))

    def _about_another(self, request: WriteRequest, rng: random.Random) -> tuple[str, str]:
        answers, found = request.episode.task.answers, ("", "")
        for _ in range(_TRIES):  # an answer such as "a" stands in every passage
            passage = self._world.article(self._world.entity(rng.randrange(_NAMES // 2)))
            found = passage.title, " ".join(passage.text.split()[: 2 * request.words])
            if not mentions(f"{passage.title} {passage.text}", answers):
                break
        return found

    def _another(
        self, relation: str, value: str, answers: Sequence[str], rng: random.Random
    ) -> str:
        other = ""
        for _ in range(_TRIES):
            is_year = value.isdigit()
            other = str(rng.randrange(1500, 2000)) if is_year else self._invented(relation, rng)
            if other != value and not mentions(other, answers):
                break
        return other

    def _invented(self, relation: str, rng: random.Random) -> str:
        """A value of the kind that the relation has; where that is unknown any name."""
        if relation not in _KNOWN:
            return self._world.entity(rng.randrange(_NAMES // 2)).name
        kind = _KNOWN[relation].target
        if kind is None:
            return str(rng.randrange(1500, 2000))
        return self._world.member(
            kind, "train", rng.randrange(self._world.size(kind, "train"))
        ).name


def _forms(relation: str) -> tuple[str, ...]:
    """Ways to state a relation (r) of a subject (s) and a value (o)."""
    known = _KNOWN.get(relation)
    return _STATED if known is None else (PLAIN, known.sentence)


def _relations_beside(relation: str) -> list[str]:
    """The other relations of the kind of thing that has this one."""
    for relations in RELATIONS.values():
        names = [each.name for each in relations]
        if relation in names:
            return [name for name in names if name != relation]
    return []


def _about(text: str, sentences: Sequence[str], value: str, words: int) -> str:
    """At most about `words` words, the stated value kept."""
    if len(text.split()) <= words:
        return text
    kept = [sentence for sentence in sentences if value in sentence][:1]
    for sentence in sentences:
        if sentence not in kept and len(" ".join([*kept, sentence]).split()) <= words:
            kept.append(sentence)
    return " ".join(sorted(kept, key=lambda s: hashlib.blake2b(s.encode()).digest()))
