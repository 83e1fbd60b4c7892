"""A seeded fictional encyclopedia with 1-, 2- and 3-hop questions.

Nothing in it is true, so a student can only answer by searching and reading. Every entity
belongs to one split, and relations never cross splits: what is learned about the training
entities says nothing about the test entities.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ovd_envs.episode import Task
from ovd_envs.tasks import names
from retrieval_index.documents import Document

Kind = Literal["person", "place", "work", "organisation"]
Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class Relation:
    """`name` is the noun used in questions; `target` the kind of its value; `who` picks the
    question word; `templates` are the sentences that state it (s: subject, o: object)."""

    name: str
    target: Kind
    who: bool
    templates: tuple[str, ...]


RELATIONS: dict[Kind, tuple[Relation, ...]] = {
    "person": (
        Relation("birthplace", "place", False, ("{s} was born in {o}.",)),
        Relation("employer", "organisation", False, ("{s} works for {o}.",)),
    ),
    "place": (
        Relation("mayor", "person", True, ("{s} is governed by {o}.",)),
        Relation("twin town", "place", False, ("{s} is twinned with {o}.",)),
    ),
    "work": (
        Relation("author", "person", True, ("{s} was written by {o}.",)),
        Relation("publisher", "organisation", False, ("{s} was published by {o}.",)),
    ),
    "organisation": (
        Relation("founder", "person", True, ("{s} was founded by {o}.",)),
        Relation("seat", "place", False, ("{s} has its seat in {o}.",)),
    ),
}
PLAIN = "The {r} of {s} is {o}."
"""Every relation may also be stated in these words."""

DISTRACTORS = (
    "A letter about the {r} of {s} was sent to {x}.",
    "Nobody in {x} remembers the {r} of {s}.",
    "A song from {x} asks for the {r} of {s}.",
)
SHARES: dict[Kind, float] = {"person": 0.35, "place": 0.25, "work": 0.2, "organisation": 0.2}
ALIAS_SHARE = 0.15
DISTRACTOR_SHARE = 0.1
TEST_SHARE = 0.25


@dataclass(slots=True)
class Entity:
    name: str
    kind: Kind
    split: Split
    passage: str
    alias: str | None = None
    facts: dict[str, Entity] = field(default_factory=dict[str, "Entity"])

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,) if self.alias is None else (self.name, self.alias)


@dataclass(slots=True)
class World:
    """An encyclopedia: `passages` for a search engine, `tasks()` for an environment."""

    seed: int
    entities: list[Entity]
    passages: list[Document]

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
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: expected 'train' or 'test'")
        if not hops or not set(hops) <= {1, 2, 3}:
            raise ValueError(f"hops={tuple(hops)}: expected some of 1, 2 and 3")
        rng = random.Random(f"questions {self.seed} {split} {seed}")
        pool = [entity for entity in self.entities if entity.split == split]
        seen: set[str] = set()
        tasks: list[Task] = []
        for _ in range(20 * count):
            if len(tasks) == count:
                break
            task = _question(pool, hops[len(tasks) % len(hops)], split, rng)
            if task is not None and task.prompt not in seen:
                seen.add(task.prompt)
                tasks.append(task)
        return tasks


def fiction(passages: int = 2000, *, seed: int = 0) -> World:
    """Generate the encyclopedia of that many passages (50 to a few millions)."""
    if passages < 50:
        raise ValueError(f"passages={passages}: an encyclopedia needs at least 50")
    rng = random.Random(f"fiction {seed}")
    entities = _entities(passages - int(passages * DISTRACTOR_SHARE), rng)
    _relate(entities, rng)
    documents = [_article(entity, rng) for entity in entities]
    documents += _distractors(entities, passages - len(entities), rng)
    rng.shuffle(documents)
    return World(seed, entities, documents)


def _entities(count: int, rng: random.Random) -> list[Entity]:
    makers = {kind: names.unique_names(kind, rng) for kind in SHARES}
    aliases = names.unique_names("alias", rng)
    kinds: list[Kind] = []
    for kind, share in SHARES.items():
        kinds.extend(kind for _ in range(round(share * count)))
    while len(kinds) < count:
        kinds.append("person")
    entities: list[Entity] = []
    for index, kind in enumerate(kinds[:count]):
        # Each kind is split in the same proportion; every kind has both splits from 50 passages on.
        split: Split = "test" if index % round(1 / TEST_SHARE) == 0 else "train"
        alias = next(aliases) if rng.random() < ALIAS_SHARE else None
        entities.append(Entity(next(makers[kind]), kind, split, f"f{index}", alias))
    return entities


def _relate(entities: list[Entity], rng: random.Random) -> None:
    pools: dict[tuple[Kind, Split], list[Entity]] = {}
    for entity in entities:
        pools.setdefault((entity.kind, entity.split), []).append(entity)
    for entity in entities:
        for relation in RELATIONS[entity.kind]:
            pool = pools[relation.target, entity.split]
            place = rng.randrange(len(pool))
            if pool[place] is entity:
                place = (place + 1) % len(pool)
            entity.facts[relation.name] = pool[place]


def _article(entity: Entity, rng: random.Random) -> Document:
    sentences = [
        rng.choice((*relation.templates, PLAIN)).format(
            r=relation.name, s=entity.name, o=entity.facts[relation.name].name
        )
        for relation in RELATIONS[entity.kind]
    ]
    rng.shuffle(sentences)
    if entity.alias is not None:
        sentences.insert(0, f"{entity.name} is also called {entity.alias}.")
    return Document(entity.passage, entity.name, " ".join(sentences))


def _distractors(entities: list[Entity], count: int, rng: random.Random) -> list[Document]:
    """Passages that name an entity and one of its relations, and do not say its value."""
    documents: list[Document] = []
    places = [entity for entity in entities if entity.kind == "place"]
    for index in range(count):
        subject, stranger = rng.choice(entities), rng.choice(places)
        relation = rng.choice(RELATIONS[subject.kind])
        text = rng.choice(DISTRACTORS).format(r=relation.name, s=subject.name, x=stranger.name)
        documents.append(Document(f"d{index}", f"Note on {subject.name}", text))
    return documents


def _question(pool: list[Entity], hops: int, split: Split, rng: random.Random) -> Task | None:
    start = rng.choice(pool)
    mention = rng.choice(start.names)
    visited, mentions, chain = [start], mention, list[dict[str, str]]()
    relation = RELATIONS[start.kind][0]
    for _ in range(hops):
        subject = visited[-1]
        relation = rng.choice(RELATIONS[subject.kind])
        value = subject.facts[relation.name]
        if value in visited:
            return None
        name = mention if subject is start else subject.name
        query = f"{relation.name} of {name}"
        chain.append({"query": query, "answer": value.name, "passage": subject.passage})
        mentions = (
            f"{relation.name} of {mentions}"
            if subject is start
            else f"{relation.name} of the {mentions}"
        )
        visited.append(value)
    question = f"{'Who' if relation.who else 'What'} is the {mentions}?"
    relations = [link["query"].split(" of ")[0].replace(" ", "_") for link in chain]
    name = start.passage if mention == start.name else f"{start.passage}-alias"
    return Task(
        id="-".join(["fiction", split, name, *relations]),
        prompt=question,
        answers=visited[-1].names,
        hops=hops,
        supporting=tuple(link["passage"] for link in chain),
        metadata={"chain": chain},
    )
