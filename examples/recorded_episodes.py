"""Somebody else's agent, from its transcripts: graded and scored as a student of ours would be.

    cd examples
    python recorded_episodes.py --transcripts transcripts.jsonl --tasks questions.jsonl

A transcript is a JSON object a line, with the task's id and the messages of a chat with calls of a
tool `search`, as OpenAI-compatible agents record them. Two small parts replay it through the
ordinary environment: an actor that says what the agent said, and a search engine that finds what
the agent was shown. So grades, the teacher's scores and the episodes' format are those of any run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from ovd_envs import Episode, SearchRequest, make_scenario
from ovd_envs.episode import write_episodes
from ovd_envs.grammar import tagged
from retrieval_index import Document


@dataclass(frozen=True)
class Options:
    """Score another agent's episodes."""

    transcripts: Path
    tasks: Path
    teacher: str = "oracle"
    """Who scores the steps: also openai:MODEL@URL."""
    out: Path = Path("recorded.jsonl")
    """Where the episodes go."""


class Recorded:
    """The transcripts as an actor (`act`) and as a search engine (`search`)."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        self.turns = {line["id"]: list(turns_of(line["messages"])) for line in lines}

    def act(self, episodes: Sequence[Episode]) -> list[str]:
        return [self._turn(episode)[0] for episode in episodes]

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document]]:
        return [self._turn(request.episode)[1] for request in requests]

    def _turn(self, episode: Episode) -> tuple[str, list[Document]]:
        turns, place = self.turns[episode.task.id], len(episode.turns)
        return turns[place] if place < len(turns) else ("", [])


def turns_of(messages: Sequence[dict[str, Any]]) -> list[tuple[str, list[Document]]]:
    """What the agent did in each turn, in our tags, and the passages that it was shown for it."""
    turns: list[tuple[str, list[Document]]] = []
    for message in messages:
        if message["role"] == "tool":
            shown = [line.partition(": ") for line in message["content"].splitlines()]
            found = [Document(title, title, text) for title, _, text in shown]
            turns[-1] = (turns[-1][0], found)
        elif calls := message.get("tool_calls"):
            query = json.loads(calls[0]["function"]["arguments"])["query"]
            turns.append((tagged("search", query), []))
        elif message["role"] == "assistant":
            turns.append((tagged("answer", message["content"]), []))
    return turns


def main(options: Options) -> None:
    recorded = Recorded(options.transcripts)
    scenario, tasks = make_scenario(
        "ovd/WebQA-v0",
        tasks=str(options.tasks),
        search=recorded,
        teacher=options.teacher,
        max_turns=max(map(len, recorded.turns.values())),
    )
    # Transcripts do not name passages by our ids: every passage with an answer counts as needed.
    played = [replace(task, supporting=()) for task in tasks if task.id in recorded.turns]
    episodes = scenario.demonstrate(played, demonstrator=recorded)
    for episode in episodes:
        scores = " ".join(map(str, episode.levels))
        print(f"{episode.task.id}: {episode.answer!r}, EM {episode.exact_match}, scores {scores}")
    match = sum(episode.exact_match or 0.0 for episode in episodes) / len(episodes)
    print(f"exact match {match:.2f} of {len(episodes)} episodes; {options.out}")
    write_episodes(options.out, iter(episodes))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
