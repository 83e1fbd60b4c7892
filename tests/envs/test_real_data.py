"""Public question and problem sets through the environments.

They are not part of this repository: set OVD_DATA to their folder (by default ../shared/data).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import gymnasium
import pytest

import ovd_envs  # noqa: F401 - registers the ids
from ovd_envs.episode import Task
from ovd_envs.registry import make_scenario
from ovd_envs.tasks.files import load_tasks
from ovd_envs.teachers.oracle.teacher import OracleTeacher
from retrieval_index import build_index

DATA = Path(os.environ.get("OVD_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason=f"no public data at {DATA} (set OVD_DATA to its folder)"
)


def some(name: str, count: int) -> list[Task]:
    return random.Random(0).sample(load_tasks(DATA / name), count)


@pytest.mark.parametrize(
    ("corpus", "questions", "least"),
    [
        ("hotpotqa_100", "hotpotqa_100.jsonl", 0.95),
        ("popqa_1000", "popqa_1000.jsonl", 0.95),
    ],
)
def test_questions_over_a_real_corpus(
    corpus: str, questions: str, least: float, tmp_path: Path
) -> None:
    index = build_index(DATA / "corpora" / f"{corpus}.jsonl.gz", tmp_path / corpus, "hashing")
    oracle = OracleTeacher(index.get, max_turns=5)
    tasks = some(f"qa/{questions}", 60)
    scenario, _ = make_scenario(
        "ovd/WebQA-v0", tasks=tasks, search=index, teacher=oracle, max_turns=5, top_k=3
    )
    episodes = scenario.demonstrate(tasks)
    assert sum(episode.exact_match for episode in episodes) / len(episodes) >= least
    searches = [turn for episode in episodes for turn in episode.turns if turn.kind == "search"]
    assert len(searches) >= len(episodes)
    assert all(turn.documents for turn in searches)


def test_a_question_file_in_gymnasium(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = build_index(DATA / "corpora/hotpotqa_100.jsonl.gz", folder, "hashing")
    tasks = DATA / "qa/hotpotqa_100.jsonl"
    env = gymnasium.make(
        "ovd/WebQA-v0", tasks=str(tasks), search=str(folder), teacher=None, top_k=3
    )
    prompt, info = env.reset(seed=3)
    question = next(task for task in load_tasks(tasks) if task.prompt in prompt)
    assert info["task_id"] == question.id
    seen, reward, terminated, truncated, _ = env.step(f"<search>{question.prompt}</search>")
    found = index.search([question.prompt], k=3)[0]
    assert [document.text in seen for document in found] == [True] * 3
    assert (reward, terminated, truncated) == (0.0, False, False)
    _, reward, terminated, _, _ = env.step(f"<answer>{question.answers[0]}</answer>")
    assert (reward, terminated) == (1.0, True)


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_problems(name: str) -> None:
    """The right answer, as the file has it, counts; another problem's does not."""
    tasks = some(f"math/{name}", 60)
    scenario, _ = make_scenario("ovd/Math-v0", tasks=tasks)
    right, wrong = scenario.begin(tasks), scenario.begin(tasks)
    answers = [task.answers[0] for task in tasks]
    scenario.advance(right, [f"<answer>{answer}</answer>" for answer in answers])
    scenario.advance(wrong, [f"<answer>{answer}</answer>" for answer in answers[1:] + answers[:1]])
    assert [episode.exact_match for episode in right] == [True] * len(tasks)
    assert sum(episode.exact_match for episode in wrong) <= 0.1 * len(tasks)


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_demonstrated_problems(name: str) -> None:
    tasks = some(f"math/{name}", 60)
    scenario, _ = make_scenario("ovd/Math-v0", tasks=tasks)
    episodes = scenario.demonstrate(tasks)
    assert [episode.exact_match for episode in episodes] == [True] * len(tasks)
    assert all(turn.kind != "invalid" for episode in episodes for turn in episode.turns)
