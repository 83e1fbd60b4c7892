"""OVD and imitation on real text: SmolLM2 learns from SQuAD, and answers what it never saw.

    python benchmarks/real_text.py

The passages of four sets, split at 100 words (as the Wikipedia of DPR and Search-R1 is), make one
index, searched by MiniLM and BM25 together. Students learn from questions of the SQuAD training
sample; before and after they answer 300 questions of SQuAD dev, and those of HotpotQA and 2Wiki,
greedily. All in runs/real_text; what is finished is read, what was stopped goes on.

The oracle shows how to search with the question itself and read the answer off; where that does not
find the passage it has nothing to show (it could only search with words a student cannot know).

Predicted before the first run: EM on SQuAD rises from 0 to between 0.2 and 0.4, under the ceiling
that a first passage sets; imitation of as many demonstrations an update ends within 0.05 of OVD;
HotpotQA and 2Wiki, which mostly need two searches, stay under 0.15.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

from ovd_envs.episode import Episode, Task, read_episodes
from ovd_envs.grading.text import normalize
from ovd_envs.tasks.files import load_tasks
from retrieval_index import build_index
from retrieval_index.corpus import read_corpus, split_passages
from retrieval_index.documents import Document
from retrieval_index.files import write_atomically

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared/data"
CORPORA = ("squad_train_sample", "squad_dev", "hotpotqa_100", "2wikimultihopqa")
TRAIN = "squad_train_sample.jsonl"
HELD_OUT = {
    "SQuAD dev": "squad_dev.jsonl.gz",
    "HotpotQA": "hotpotqa_100.jsonl",
    "2Wiki": "2wikimultihopqa_101.jsonl",
}
WORDS = 100
COMMON = (*("--rollout.max-new-tokens", "56", "--rollout.max-length", "640"),)
UPDATES = 10
TRAINING = (
    *("--updates", str(UPDATES), "--eval-count", "1", "--env.max-turns", "2"),
    *("--demonstrations.min-score", "7"),
)
ARMS = {
    "ovd": ("--algorithm", "ovd"),
    "sft": ("--algorithm", "sft"),
}


@dataclass(frozen=True)
class Options:
    """Train on SQuAD, evaluate on three sets."""

    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0,)
    count: int = 300
    """Questions of a held-out set, at most."""
    runs: Path = Path("runs/real_text")
    out: Path = RESULTS / "real_text.json"
    show: bool = False
    """Print the record at `out`, and measure nothing."""


def main(options: Options) -> None:
    if options.show:
        show(json.loads(options.out.read_text())["results"])
        return
    prepare(options)
    results: dict[str, Any] = {}
    students = {"before": "smollm2"}
    students |= {f"{arm}-{seed}": "" for seed in options.seeds for arm in options.arms}
    for name, student in students.items():
        folder = options.runs / name
        if not student and not (folder / "summary.json").exists():
            arm, _, seed = name.rpartition("-")
            call("train", options, "train", *TRAINING, *ARMS[arm], "--seed", seed, out=folder)
        results[name] = {
            held: evaluated(student or str(folder), held, folder, options) for held in HELD_OUT
        }
        if not student:
            results[name]["ledger"] = ledger(folder)
        record = {"training": TRAINING, "common": COMMON, "arms": ARMS, "results": results}
        write_record(options.out, record | surroundings(["torch", "transformers", "faiss-cpu"]))
    show(results)


def prepare(options: Options) -> None:
    """The passages, the index and the questions, sampled with seed 0; each once."""
    runs = options.runs
    pieces: dict[str, list[Document]] = {}
    for name in CORPORA:
        for passage in read_corpus(DATA / f"corpora/{name}.jsonl.gz"):
            pieces[passage.id] = list(split_passages([passage], WORDS))
    corpus = runs / "passages.jsonl"
    if not corpus.exists():
        rows = (
            {"id": p.id, "title": p.title, "text": p.text} for ps in pieces.values() for p in ps
        )
        write_lines(corpus, rows)
    build_index(corpus, runs / "index", "minilm")
    for held, file in {"train": TRAIN, **HELD_OUT}.items():
        tasks = load_tasks(DATA / "qa" / file)
        if held != "train" and len(tasks) > options.count:
            tasks = random.Random(0).sample(tasks, options.count)
        write_lines(questions(runs, held), (row(task, pieces) for task in tasks))


def row(task: Task, pieces: dict[str, list[Document]]) -> dict[str, Any]:
    """A question whose supporting passages are the pieces that hold an answer, or else all."""
    supporting: list[str] = []
    for passage in task.supporting:
        holding = [piece.id for piece in pieces[passage] if says(piece, task.answers)]
        supporting += holding[:1] or [piece.id for piece in pieces[passage]]
    fields = {"id": task.id, "question": task.prompt, "answers": list(task.answers)}
    return fields | {"supporting": supporting, "hops": task.hops}


def says(piece: Document, answers: Sequence[str]) -> bool:
    text = f" {normalize(piece.text)} "
    return any(f" {normalize(answer)} " in text for answer in answers)


def questions(runs: Path, held: str) -> Path:
    return runs / f"{held.replace(' ', '_').lower()}.jsonl"


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def call(name: str, options: Options, held: str, *more: str, out: Path) -> None:
    """A command of `ovd`, on the questions `held`."""
    places = ("--search", str(options.runs / "index"))
    places += ("--env.tasks", str(questions(options.runs, "train")))
    tested = "SQuAD dev" if held == "train" else held
    places += ("--eval-tasks", str(questions(options.runs, tested)))
    command = [sys.executable, "-m", "ovd_agent.cli.main", name, "--out", str(out)]
    subprocess.run([*command, *places, *COMMON, *more], check=True)


def evaluated(student: str, held: str, folder: Path, options: Options) -> dict[str, Any]:
    """Greedy answers to a held-out set: EM, F1, and what the student did."""
    out = folder / questions(Path(), held).stem
    if not (out / "result.json").exists():
        more = ("--student", student, "--count", str(options.count))
        call("evaluate", options, held, *more, out=out)
    result = json.loads((out / "result.json").read_text())
    kept = ("count", "em", "em_low", "em_high", "f1", "f1_low", "f1_high")
    episodes = list(read_episodes(out / "episodes.jsonl"))
    return {name: result[name] for name in kept} | asdict(conduct(episodes))


@dataclass(frozen=True, slots=True)
class Conduct:
    answered: float
    """Share of episodes that end with an answer."""
    searches: float
    """An episode."""
    found: float
    """Share of episodes that read a passage which holds an answer."""
    em_found: float
    """EM of these."""


def conduct(episodes: Sequence[Episode]) -> Conduct:
    answered = sum(episode.end_reason == "answered" for episode in episodes)
    searches = sum(turn.kind == "search" for episode in episodes for turn in episode.turns)
    found = [episode for episode in episodes if read_answer(episode)]
    right = sum(episode.exact_match or 0.0 for episode in found)
    count = max(1, len(episodes))
    return Conduct(
        answered / count, searches / count, len(found) / count, right / max(1, len(found))
    )


def read_answer(episode: Episode) -> bool:
    passages = (passage for turn in episode.turns for passage in turn.documents)
    return any(says(passage, episode.task.answers) for passage in passages)


def ledger(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    names = ("acceptance", "seconds", "demonstrations", "score_calls", "optimizer_steps")
    return {name: summary[name] for name in (*names, "student_tokens", "trained_tokens")}


def show(results: dict[str, Any]) -> None:
    for held in HELD_OUT:
        table = Table(title=f"{held}, greedy", title_justify="left")
        columns = ("student", "EM", "95%", "F1", "answered", "searches", "found", "EM if found")
        for column in columns:
            table.add_column(column, justify="left" if column == "student" else "right")
        for name, sets in results.items():
            one = sets[held]
            interval = f"{one['em_low']:.3f} to {one['em_high']:.3f}"
            cells = [f"{one['em']:.3f}", interval, f"{one['f1']:.3f}", f"{one['answered']:.2f}"]
            cells += [f"{one[key]:.2f}" for key in ("searches", "found", "em_found")]
            table.add_row(name, *cells)
        Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
