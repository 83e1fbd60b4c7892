"""Episodes survive the trip to JSON and back exactly, and can be played again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.episode import (
    Document,
    Episode,
    Task,
    Turn,
    VerbalScore,
    read_episodes,
    write_episodes,
)
from ovd_envs.scenarios.webqa import WebQA


def _whole(text: str) -> str:
    """Two adjacent surrogates are one character in JSON, so no record can tell them apart."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20).map(_whole)
floats = st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
many_texts = st.lists(texts, max_size=3).map(tuple)
task_records = st.builds(
    Task, texts, texts, many_texts, st.integers(), many_texts, st.dictionaries(texts, jsons)
)
scores = st.builds(VerbalScore, st.integers(0, 9), floats, texts, texts) | st.builds(
    VerbalScore.missing, texts
)
documents = st.lists(st.builds(Document, texts, texts, texts, floats), max_size=2).map(tuple)
kinds = st.sampled_from(["search", "answer", "think", "invalid"])
turns = st.builds(
    Turn, texts, kinds, texts, st.integers(0), texts, documents, st.none() | scores, floats
)
episodes = st.builds(
    Episode,
    task_records,
    texts,
    st.integers(0, 2**63),
    st.lists(turns, max_size=3),
    st.booleans(),
    st.booleans(),
    st.none() | st.sampled_from(["answered", "turn_limit", "invalid_limit", "infrastructure"]),
    st.none() | floats,
    st.none() | floats,
)


@given(episodes)
def test_round_trip_is_exact(episode: Episode) -> None:
    line = episode.to_json()
    assert line.isascii()
    assert "\n" not in line
    again = Episode.from_json(line)
    assert again == episode
    assert again.to_json() == line


@given(st.lists(episodes, max_size=3))
def test_files_hold_one_episode_a_line(tmp_path_factory: Any, stored: list[Episode]) -> None:
    path = tmp_path_factory.mktemp("episodes") / "new" / "a.jsonl"
    write_episodes(path, stored)
    assert list(read_episodes(path)) == stored
    assert len(path.read_text().splitlines()) == len(stored)
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]  # nothing temporary left


def test_nan_is_refused_when_it_is_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Episode(Task("a", "b", ()), "p", f1=float("nan")).to_json()


@pytest.mark.parametrize("broken", ["{", "[]", "null", '{"task": 1}', '{"nothing": 1}', ""])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "episodes.jsonl"
    good = Episode(Task("a", "b", ()), "p").to_json()
    path.write_text(f"{good}\n{broken}\n{good}\n")
    reader = read_episodes(path)
    assert next(reader).task.id == "a"
    with pytest.raises(ValueError, match=r"episodes\.jsonl, line 2: not an episode record"):
        next(reader)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, [Episode(Task("old", "b", ()), "p")])
    with pytest.raises(ValueError, match="JSON"):
        write_episodes(path, [Episode(Task("new", "b", ()), "p", f1=float("inf"))])
    assert [episode.task.id for episode in read_episodes(path)] == ["old"]


def test_replay_gives_the_same_episode(webqa: Callable[..., WebQA], tasks: list[Task]) -> None:
    scenario = webqa(reward="mixed")
    [episode] = scenario.begin(tasks[3:4], [17])
    prompt = tasks[3].prompt
    for action in ("\ud800 <search>", f"<think>é</think><search>{prompt}</search>", "<answer>3"):
        scenario.advance([episode], [action])
    stored = Episode.from_json(episode.to_json())
    [again] = scenario.begin([stored.task], [stored.seed])
    for turn in stored.turns:
        scenario.advance([again], [turn.action])
    assert [turn.observation for turn in again.turns] == [
        turn.observation for turn in episode.turns
    ]
    assert again.to_json() == episode.to_json()
    assert json.loads(episode.to_json())["turns"][1]["documents"][0]["id"] == "p3"
