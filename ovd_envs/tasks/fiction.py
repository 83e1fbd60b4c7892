"""A seeded fictional encyclopedia with 1-, 2- and 3-hop questions.

Nothing in it is true, so a student can only answer by searching and reading. Every entity
belongs to one split, and relations never cross splits: what is learned about the training
entities says nothing about the test entities.

The encyclopedia is never held in memory: every name, fact and passage is a pure function of the
seed and a number, so a million passages can be streamed to an index builder.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.tasks.names import KINDS, Kind, Namer, namesake
from retrieval_index.documents import Document

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
SMALLEST = 50


@dataclass(frozen=True, slots=True)
class Relation:
    """`name` is the noun used in questions; `target` the kind of its value, None for a year;
    `sentence` a way to state it (s: subject, o: value)."""

    name: str
    target: Kind | None
    sentence: str


RELATIONS: dict[Kind, tuple[Relation, ...]] = {
    "person": (
        Relation("birthplace", "place", "{s} was born in {o}."),
        Relation("employer", "organisation", "{s} works for {o}."),
        Relation("mentor", "person", "{s} was taught by {o}."),
    ),
    "place": (
        Relation("mayor", "person", "{s} is governed by {o}."),
        Relation("twin town", "place", "{s} is twinned with {o}."),
        Relation("founding year", None, "{s} was first settled in {o}."),
    ),
    "work": (
        Relation("author", "person", "{s} was written by {o}."),
        Relation("publisher", "organisation", "{s} was brought out by {o}."),
        Relation("release year", None, "{s} appeared in {o}."),
    ),
    "organisation": (
        Relation("founder", "person", "{s} was started by {o}."),
        Relation("seat", "place", "{s} has its offices in {o}."),
        Relation("charter year", None, "{s} was chartered in {o}."),
    ),
}
PLAIN = "The {r} of {s} is {o}."
"""Every relation may also be stated in these words."""

_PATTERN: tuple[Kind, ...] = ("person", "place", "work", "person", "organisation") * 4
"""The kinds of twenty entities in a row."""
_EVERY_DISTRACTOR = 10
"""One passage in this many is about a namesake."""
_EVERY_TEST = 4
"""One entity of each kind in this many belongs to the test split."""
_ALIASED = 0.15


@dataclass(frozen=True, slots=True)
class Entity:
    """`place` counts the entities of its kind."""

    kind: Kind
    place: int
    name: str
    alias: str | None
    passage: str

    @property
    def split(self) -> Split:
        return "test" if self.place % _EVERY_TEST == 0 else "train"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.alias is None else (self.name, self.alias)


class World:
    """An encyclopedia of `passages` passages (50 to some millions)."""

    def __init__(self, passages: int = 2000, seed: int = 0) -> None:
        if passages < SMALLEST:
            raise OptionError(f"passages={passages}: an encyclopedia needs at least {SMALLEST}")
        self.seed = seed
        self.passages: Sequence[Document] = Passages(self, passages)
        self.entity_count = passages - passages // _EVERY_DISTRACTOR
        self._salt = hashlib.blake2b(f"fiction {seed}".encode(), digest_size=8).digest()
        self._namer = Namer(self._hash)
        self._places = {kind: [n for n, k in enumerate(_PATTERN) if k == kind] for kind in KINDS}

    def entity(self, number: int) -> Entity:
        """The entity with this number, of `entity_count`."""
        kind = _PATTERN[number % len(_PATTERN)]
        cycle, within = divmod(number, len(_PATTERN))
        place = cycle * len(self._places[kind]) + self._places[kind].index(within)
        aliased = self._hash("aliased", number) < _ALIASED * 2**64
        alias = self._namer.name("alias", number) if aliased else None
        passage = f"f{_passage_of(number)}"
        return Entity(kind, place, self._namer.name(kind, place), alias, passage)

    def entity_of(self, kind: Kind, place: int) -> Entity:
        cycle, within = divmod(place, len(self._places[kind]))
        return self.entity(cycle * len(_PATTERN) + self._places[kind][within])

    def size(self, kind: Kind, split: Split) -> int:
        """How many entities there are of a kind in a split."""
        cycles, rest = divmod(self.entity_count, len(_PATTERN))
        of_kind = cycles * len(self._places[kind]) + _PATTERN[:rest].count(kind)
        test = -(-of_kind // _EVERY_TEST)
        return test if split == "test" else of_kind - test

    def member(self, kind: Kind, split: Split, index: int) -> Entity:
        """The entity of a kind and split with this index, of `size(kind, split)`."""
        if split == "test":
            return self.entity_of(kind, index * _EVERY_TEST)
        cycle, within = divmod(index, _EVERY_TEST - 1)
        return self.entity_of(kind, cycle * _EVERY_TEST + within + 1)

    def value(self, subject: Entity, relation: Relation, variant: str = "") -> Entity | str:
        """What a relation of an entity (or of its namesake, a `variant`) leads to."""
        key = self._hash(subject.kind, subject.place, relation.name, variant)
        if relation.target is None:
            return str(1500 + key % 500)
        size = self.size(relation.target, subject.split)
        found = self.member(relation.target, subject.split, key % size)
        if found == subject:
            return self.member(relation.target, subject.split, (key + 1) % size)
        return found

    def tasks(
        self,
        split: Split = "train",
        *,
        count: int = 1000,
        hops: Sequence[int] = (1, 2, 3),
        seed: int = 0,
    ) -> list[Task]:
        """Up to `count` different questions, the hop counts in turn. Each question's
        `metadata["chain"]` lists query, answer and gold passage of every hop."""
        if split not in SPLITS:
            raise OptionError(f"split={split!r}: expected 'train' or 'test'")
        if not hops or not set(hops) <= {1, 2, 3, 4}:
            raise OptionError(f"hops={tuple(hops)}: expected some of 1, 2, 3 and 4")
        rng = random.Random(f"questions {self.seed} {split} {seed}")
        seen: set[str] = set()
        tasks: list[Task] = []
        for _ in range(20 * count):
            if len(tasks) == count:
                break
            task = self._question(hops[len(tasks) % len(hops)], split, rng)
            if task is not None and task.prompt not in seen:
                seen.add(task.prompt)
                tasks.append(task)
        return tasks

    def _question(self, hops: int, split: Split, rng: random.Random) -> Task | None:
        kind = rng.choice(_PATTERN)
        start = self.member(kind, split, rng.randrange(self.size(kind, split)))
        mention = rng.choice(start.names)
        asked, visited, chain = mention, [start], list[dict[str, str]]()
        relation, answers = RELATIONS[kind][0], ("",)
        for hop in range(hops):
            subject, name = visited[-1], visited[-1].name if hop else mention
            last = hop == hops - 1  # a year leads nowhere
            relation = rng.choice([r for r in RELATIONS[subject.kind] if r.target or last])
            value = self.value(subject, relation)
            if value in visited:
                return None
            answers = (value,) if isinstance(value, str) else value.names
            query = f"{relation.name} of {name}"
            chain.append({"query": query, "answer": answers[0], "passage": subject.passage})
            asked = f"{relation.name} of {'the ' if hop else ''}{asked}"
            if isinstance(value, Entity):
                visited.append(value)
        relations = [link["query"].split(" of ")[0].replace(" ", "_") for link in chain]
        name = start.passage if mention == start.name else f"{start.passage}-alias"
        return Task(
            id="-".join(["fiction", split, name, *relations]),
            prompt=f"{'Who' if relation.target == 'person' else 'What'} is the {asked}?",
            answers=answers,
            hops=hops,
            supporting=tuple(link["passage"] for link in chain),
            metadata={"chain": chain},
        )

    def article(self, entity: Entity) -> Document:
        """The passage about an entity."""
        sentences = self._sentences(entity, entity.name, "")
        if entity.alias is not None:
            sentences.insert(0, f"{entity.name} is also called {entity.alias}.")
        return Document(entity.passage, entity.name, " ".join(sentences))

    def distractor(self, number: int) -> Document:
        """A passage about someone or something with nearly the name of an entity."""
        key = self._hash("distractor", number)
        original = self.entity(key % self.entity_count)
        name = namesake(original.kind, original.name, key)
        return Document(f"d{number}", name, " ".join(self._sentences(original, name, name)))

    def _sentences(self, entity: Entity, name: str, variant: str) -> list[str]:
        sentences: list[tuple[int, str]] = []
        for relation in RELATIONS[entity.kind]:
            value = self.value(entity, relation, variant)
            said = value if isinstance(value, str) else value.name
            key = self._hash("sentence", entity.kind, entity.place, relation.name, variant)
            form = PLAIN if key % 2 else relation.sentence
            sentences.append((key, form.format(r=relation.name, s=name, o=said)))
        return [sentence for _, sentence in sorted(sentences)]

    def _hash(self, *key: object) -> int:
        """64 bits that only the seed and the key decide."""
        text = "\0".join(map(str, key)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._salt).digest(), "big")


class Passages(Sequence[Document]):
    """All passages of a world, each made when it is asked for."""

    def __init__(self, world: World, count: int) -> None:
        self._world = world
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        number = range(self._count)[index]
        if number % _EVERY_DISTRACTOR == _EVERY_DISTRACTOR - 1:
            return self._world.distractor(number)
        return self._world.article(self._world.entity(number - number // _EVERY_DISTRACTOR))


def _passage_of(entity: int) -> int:
    """The number of an entity's passage: nine entities, then a distractor."""
    return entity + entity // (_EVERY_DISTRACTOR - 1)
