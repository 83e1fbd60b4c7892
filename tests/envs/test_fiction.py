"""The encyclopedia: what questions ask stands in their gold passages, and splits share nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ovd_envs.episode import Task
from ovd_envs.tasks.fiction import RELATIONS, Entity, World
from ovd_envs.tasks.names import NAMESAKES
from retrieval_index.documents import Document

ROOT = Path(__file__).parents[2]
SPLITS = ("train", "test")


def entities_of(world: World) -> list[Entity]:
    return [world.entity(number) for number in range(world.entity_count)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(1000, seed=1)


@pytest.fixture(scope="module")
def passages(world: World) -> dict[str, Document]:
    return {passage.id: passage for passage in world.passages}


@pytest.fixture(scope="module")
def tasks(world: World) -> list[Task]:
    return [task for split in SPLITS for task in world.tasks(split, count=300)]


@pytest.mark.parametrize("count", [50, 1000, 20_000])
def test_the_world_has_the_size_asked_for(count: int) -> None:
    world = World(count)
    assert len(world.passages) == len({passage.id for passage in world.passages}) == count
    entities = entities_of(world)
    names = [name for entity in entities for name in entity.names]
    assert len(names) == len(set(names)), "two entities share a name"
    kinds = Counter((entity.kind, entity.split) for entity in entities)
    assert len(kinds) == 8
    for (kind, split), size in kinds.items():
        assert world.size(kind, split) == size
        members = {world.member(kind, split, index).passage for index in range(size)}
        assert members == {e.passage for e in entities if (e.kind, e.split) == (kind, split)}
    for split in SPLITS:
        tasks = world.tasks(split, count=30)
        assert len(tasks) == 30
        assert Counter(task.hops for task in tasks) == {1: 10, 2: 10, 3: 10}


def test_gold_passages_say_every_hop(tasks: list[Task], passages: dict[str, Document]) -> None:
    for task in tasks:
        chain = task.metadata["chain"]
        assert len(chain) == task.hops == len(task.supporting)
        assert task.supporting == tuple(link["passage"] for link in chain)
        for link in chain:
            gold = passages[link["passage"]]
            relation, _, entity = link["query"].partition(" of ")
            assert entity in gold.text
            assert link["answer"] in gold.text
            assert relation
        assert chain[-1]["answer"] == task.answers[0]


def test_a_hop_leads_to_the_next(tasks: list[Task], passages: dict[str, Document]) -> None:
    for task in tasks:
        chain = task.metadata["chain"]
        for link, following in pairwise(chain):
            assert following["query"].endswith(f" of {link['answer']}")
            assert passages[following["passage"]].title == link["answer"]
        asked = task.prompt.removesuffix("?")
        assert asked.endswith(chain[0]["query"].partition(" of ")[2])
        for link in chain:
            assert link["query"].partition(" of ")[0] in asked


def test_the_question_says_neither_answer_nor_bridge(tasks: list[Task]) -> None:
    for task in tasks:
        for link in task.metadata["chain"]:
            assert link["answer"] not in task.prompt


def test_only_the_gold_passage_states_a_fact(
    tasks: list[Task], passages: dict[str, Document]
) -> None:
    """A question can not be answered from a distractor, nor in fewer hops."""
    names = {passage.title: passage for passage in passages.values()}
    for task in tasks[:100]:
        last = task.metadata["chain"][-1]
        subject = passages[last["passage"]].title
        both = [p.id for p in names.values() if subject in p.text and task.answers[0] in p.text]
        stating = [id for id in both if passages[id].title == subject]
        assert stating == [last["passage"]]


def test_no_entity_is_in_both_splits(world: World, passages: dict[str, Document]) -> None:
    entities = entities_of(world)
    owner = {name: entity.split for entity in entities for name in entity.names}
    for entity in entities:
        for relation in RELATIONS[entity.kind]:
            value = world.value(entity, relation)
            if isinstance(value, Entity):
                assert value.split == entity.split
                assert value != entity
    seen = {split: world.tasks(split, count=500) for split in SPLITS}
    for split, tasks in seen.items():
        for task in tasks:
            assert {owner.get(name, split) for name in task.answers} == {split}
            assert {owner[passages[id].title] for id in task.supporting} == {split}
    assert not {t.prompt for t in seen["train"]} & {t.prompt for t in seen["test"]}
    shares = Counter(entity.split for entity in entities)
    assert shares["test"] / shares.total() == pytest.approx(0.25, abs=0.01)


def test_aliases_are_explained_asked_for_and_accepted(
    world: World, passages: dict[str, Document], tasks: list[Task]
) -> None:
    named = {entity.name: entity for entity in entities_of(world)}
    aliased = [entity for entity in named.values() if entity.alias]
    assert 0.1 < len(aliased) / len(named) < 0.2
    for entity in aliased:
        passage = passages[entity.passage]
        assert f"{entity.name} is also called {entity.alias}." in passage.text
        assert passage.text.count(str(entity.alias)) == 1
    for task in tasks:
        entity = named.get(task.answers[0])
        assert task.answers == (entity.names if entity else (task.answers[0],))
    asked = [entity for entity in aliased if any(f"{entity.alias}?" in t.prompt for t in tasks)]
    assert len(asked) > 10


def test_distractors_are_about_near_namesakes(world: World, passages: dict[str, Document]) -> None:
    entities = entities_of(world)
    named = {name for entity in entities for name in entity.names}
    forms = [form.format(name) for name in named for forms in NAMESAKES.values() for form in forms]
    namesakes = [passage for passage in world.passages if passage.id.startswith("d")]
    assert len(namesakes) == 100
    for passage in namesakes:
        assert passage.title not in named
        assert passage.title in forms
        assert passage.text.count(passage.title) == 3
    # The namesake's facts are its own: what it says of itself is not what the entity's page says.
    originals = {e.name: passages[e.passage].text for e in entities}
    for passage in namesakes:
        original = next(name for name in originals if name in passage.title)
        assert passage.text.replace(passage.title, original) != originals[original]


def test_the_seed_decides_every_byte() -> None:
    """In another process, too, with other hashes."""
    code = """if True:
        import hashlib, json
        from dataclasses import asdict
        from ovd_envs.tasks.fiction import World
        world = World(300, seed=7)
        rows = [*world.passages, *world.tasks("test", count=40, seed=2)]
        print(hashlib.sha256(json.dumps([asdict(row) for row in rows]).encode()).hexdigest())
    """
    digests = {
        subprocess.check_output(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    world, other = World(300, seed=7), World(300, seed=8)
    assert json.dumps([asdict(passage) for passage in world.passages]) == json.dumps(
        [asdict(passage) for passage in World(300, seed=7).passages]
    )
    assert not {p.text for p in world.passages} & {p.text for p in other.passages}


def test_questions_differ_and_ids_are_unique(world: World, tasks: list[Task]) -> None:
    assert len({task.prompt for task in tasks}) == len({task.id for task in tasks}) == len(tasks)
    assert world.tasks(count=50) == world.tasks(count=50)
    assert world.tasks(count=50) != world.tasks(count=50, seed=1)
    assert len(World(50).tasks("test", count=1000, hops=[1])) < 100  # all there are, no repeats


def test_who_is_asked_of_persons(world: World, tasks: list[Task]) -> None:
    kinds = {entity.name: entity.kind for entity in entities_of(world)}
    for task in tasks:
        person = kinds.get(task.answers[0]) == "person"
        assert task.prompt.startswith("Who" if person else "What")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split='dev': expected 'train' or 'test'"),
        ({"hops": ()}, r"hops=\(\): expected some of 1, 2, 3 and 4"),
        ({"hops": (1, 5)}, r"hops=\(1, 5\)"),
    ],
)
def test_bad_options_are_named(world: World, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.tasks(**options)


def test_a_world_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="passages=49: an encyclopedia needs at least 50"):
        World(49)


def test_a_million_passages_are_made_as_they_are_asked_for() -> None:
    world = World(1_000_000)
    last = world.passages[-1]
    assert (last.id, len(world.passages)) == ("d999999", 1_000_000)
    for kind in ("person", "place", "work", "organisation"):
        for split in SPLITS:
            entity = world.member(kind, split, world.size(kind, split) - 1)
            number = int(entity.passage[1:])
            assert world.passages[number] == world.article(entity)
    for task in world.tasks("test", count=6):
        assert all(task.supporting)
