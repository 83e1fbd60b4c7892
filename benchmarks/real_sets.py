"""The oracle on real questions and problems: does every set play, and what is the oracle's EM?

    python benchmarks/real_sets.py

The oracle is privileged: it reads the answers, so its EM says that a set can be played and how
answers are graded. "gold read" says how good the search is: the share of episodes in which every
supporting passage was brought by some search.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.episode import Episode, Task
from ovd_envs.registry import make_scenario
from ovd_envs.tasks.files import load_tasks
from retrieval_index import build_index

DATA = Path(os.environ.get("OVD_DATA", Path(__file__).parents[2] / "shared" / "data"))
QUESTIONS = {
    "squad_dev": "squad_dev.jsonl.gz",
    "squad_train_sample": "squad_train_sample.jsonl",
    "popqa_1000": "popqa_1000.jsonl",
    "hotpotqa_100": "hotpotqa_100.jsonl",
    "2wikimultihopqa": "2wikimultihopqa_101.jsonl",
}
PROBLEMS = ("gsm8k_test.jsonl", "math500.jsonl")


@dataclass
class Options:
    """Play real sets with the oracle over a hashing index of their corpus."""

    count: int = 500
    """Tasks of each set, or all if there are fewer."""
    seed: int = 0
    out: Path = RESULTS / "real_sets.json"


def main(options: Options) -> int:
    if not DATA.is_dir():
        print(f"no data at {DATA}: set OVD_DATA to its folder", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for corpus, name in QUESTIONS.items():
            tasks = sample(DATA / "qa" / name, options)
            index = build_index(DATA / f"corpora/{corpus}.jsonl.gz", Path(folder) / corpus)
            scenario, _ = make_scenario(
                "ovd/WebQA-v0", tasks=tasks, search=index, max_turns=5, top_k=3
            )
            results[name] = describe(scenario.demonstrate(tasks))
    for name in PROBLEMS:
        tasks = sample(DATA / "math" / name, options)
        scenario, _ = make_scenario("ovd/Math-v0", tasks=tasks, max_turns=8)
        results[name] = describe(scenario.demonstrate(tasks))
    show(results)
    record = {"count": options.count, "seed": options.seed, "results": results}
    write_record(options.out, {**record, **surroundings(["faiss-cpu", "math-verify"])})
    return 0


def sample(path: Path, options: Options) -> list[Task]:
    tasks = load_tasks(path)
    return random.Random(options.seed).sample(tasks, min(options.count, len(tasks)))


def describe(episodes: Sequence[Episode]) -> dict[str, Any]:
    gold = [episode for episode in episodes if episode.task.supporting]
    wrong = [episode for episode in episodes if not episode.exact_match]
    return {
        "episodes": len(episodes),
        "em": mean(episode.exact_match or 0.0 for episode in episodes),
        "gold_read": mean(map(read_all, gold)) if gold else None,
        "mean_score": mean(level for episode in episodes for level in episode.levels),
        "wrong": [[episode.task.answers[0], episode.answer] for episode in wrong[:5]],
    }


def read_all(episode: Episode) -> bool:
    read = {document.id for turn in episode.turns for document in turn.documents}
    return read.issuperset(episode.task.supporting)


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("set", "episodes", "oracle's EM", "gold read", "mean score")
    for name, row in results.items():
        gold = "" if row["gold_read"] is None else f"{row['gold_read']:.2f}"
        cells = (str(row["episodes"]), f"{row['em']:.3f}", gold, f"{row['mean_score']:.1f}")
        table.add_row(name, *cells)
    Console().print(table)
    for name, row in results.items():
        for expected, given in row["wrong"]:
            Console().print(f"{name}: expected {expected!r}, the oracle said {given!r}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
