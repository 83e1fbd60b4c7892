"""Episodes per second of the same scripted episodes here, in gem-llm and in skyrl-gym.

    make bench-setup && .venv-bench/bin/python benchmarks/environments.py

Question answering: reset, two searches after 40 words of thought, a right answer; the search is a
stub over 2,000 passages of 100 words, three a query, the same for all. Mathematics: one action that
ends in both `\\boxed{n}` and `#### n`. Here the oracle scores every step and the record of every
episode is written; the others neither score nor record. Peers run as they are meant to: GEM's
SyncVectorEnv in lock step, skyrl-gym one environment an episode, at 256 in 32 threads as its
generator does. Every search and every return is checked. Medians of `repetitions` in turn.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from record import RESULTS, surroundings, write_record
from rich.console import Console
from rich.table import Table

import ovd_envs  # noqa: F401 - registers the ids
from ovd_envs.episode import Task
from ovd_envs.search.base import SearchRequest
from retrieval_index import Document

WORDS = [f"w{n:03}" for n in range(1000)]
THOUGHT = "<think>" + " ".join(WORDS[:40]) + "</think>"


@dataclass
class Options:
    """Measure episodes per second."""

    episodes: int = 1024
    """In one repetition."""
    repetitions: int = 5
    seed: int = 0
    out: Path = RESULTS / "environments.json"


class Stub:
    """Three passages for a query, by its hash; about a microsecond."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.passages = [
            Document(f"p{n}", f"Title {n}", " ".join(rng.choices(WORDS, k=100)))
            for n in range(2000)
        ]

    def pick(self, query: str) -> list[Document]:
        place = hash(query) % 1997
        return self.passages[place : place + 3]

    def search(self, requests: Sequence[SearchRequest], k: int) -> list[list[Document]]:
        return [self.pick(request.query) for request in requests]


_fresh = count()
"""No two episodes say the same, so that no cache of an earlier repetition helps."""


def script(number: int) -> tuple[str, str, str]:
    number = next(_fresh)
    return (
        f"{THOUGHT}<search>atlas of the old kingdom {number}</search>",
        f"{THOUGHT}<search>city number {number} history</search>",
        f"{THOUGHT}<answer>Paris</answer>",
    )


def problem(number: int) -> tuple[str, str]:
    return f"What is {number} and {number} in all?", str(2 * number)


def solution(answer: str) -> str:
    return f"{' '.join(WORDS[:40])} so it is \\boxed{{{answer}}}\n#### {answer}"


QA_TASKS = [
    Task(f"q{n}", f"Which city is number {n}?", ("Paris",), supporting=("p0",)) for n in range(512)
]
MATH_TASKS = [Task(f"m{n}", problem(n)[0], (problem(n)[1],)) for n in range(512)]
Run = Callable[[], int]
"""Plays some episodes and returns how many; every one must have found passages in its two
searches and had the return 1."""


def checked(observations: Sequence[str]) -> int:
    """How many of the observations show passages."""
    return sum("Title " in text for text in observations)


def ours_one(stub: Stub, episodes: int, teacher: str | None) -> Run:
    env = gymnasium.make("ovd/WebQA-v0", tasks=QA_TASKS, search=stub, teacher=teacher)

    def run() -> int:
        for number in range(episodes):
            env.reset(options={"task": QA_TASKS[number % 512]})
            played = [env.step(action)[:2] for action in script(number)]
            assert checked([text for text, _ in played]) == 2
            assert sum(float(reward) for _, reward in played) == 1.0
        return episodes

    return run


def ours_many(stub: Stub, episodes: int, teacher: str | None) -> Run:
    env = gymnasium.make_vec(
        "ovd/WebQA-v0", 256, tasks=QA_TASKS, search=stub, teacher=teacher, autoreset_mode="SameStep"
    )
    env.reset(seed=0)
    rounds = max(1, episodes // 256)

    def run() -> int:
        for number in range(rounds):
            totals = np.zeros(256)
            scripts = [script(number * 256 + place) for place in range(256)]
            for step in range(3):
                observations, rewards = env.step([said[step] for said in scripts])[:2]
                assert checked(observations) == (256 if step < 2 else 0)
                totals += rewards
            assert (totals == 1.0).all()
        return rounds * 256

    return run


def ours_one_math(episodes: int) -> Run:
    env = gymnasium.make("ovd/Math-v0", tasks=MATH_TASKS)

    def run() -> int:
        for number in range(episodes):
            task = MATH_TASKS[number % 512]
            env.reset(options={"task": task})
            assert env.step(solution(task.answers[0]))[1] == 1.0
        return episodes

    return run


def ours_many_math(places: int, episodes: int) -> Run:
    env = gymnasium.make_vec("ovd/Math-v0", places, tasks=MATH_TASKS, autoreset_mode="Disabled")
    rounds = max(1, episodes // places)

    def run() -> int:
        for number in range(rounds):
            tasks = [MATH_TASKS[(number * places + place) % 512] for place in range(places)]
            env.reset(options={"tasks": tasks})
            rewards = env.step([solution(task.answers[0]) for task in tasks])[1]
            assert (rewards == 1.0).all()
        return rounds * places

    return run


def gem_env(stub: Stub) -> Any:
    from datasets import Dataset, disable_progress_bars
    from gem.envs.qa_env import QaEnv
    from gem.tools.search_tool import SearchTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    disable_progress_bars()
    rows = {
        "question": [task.prompt for task in QA_TASKS],
        "answer": [list(task.answers) for task in QA_TASKS],
    }
    tool = SearchTool(search_url="stub")
    tool._search = lambda query: tool._passages2string(
        [{"document": {"contents": passage.contents}} for passage in stub.pick(query)]
    )
    return ToolEnvWrapper(QaEnv(dataset=Dataset.from_dict(rows)), [tool], max_tool_uses=5)


def gem_one(stub: Stub, episodes: int) -> Run:
    env = gem_env(stub)

    def run() -> int:
        for number in range(episodes):
            env.reset()
            played = [env.step(action)[:2] for action in script(number)]
            assert checked([text for text, _ in played]) == 2
            assert sum(float(reward) for _, reward in played) == 1.0
        return episodes

    return run


def gem_many(stub: Stub, episodes: int) -> Run:
    from gem.vector.sync_vector_env import SyncVectorEnv

    env = SyncVectorEnv(env_ids=["qa"] * 256, env_fns=[lambda: gem_env(stub)] * 256)
    env.reset()
    rounds = max(1, episodes // 256)

    def run() -> int:
        for number in range(rounds):
            totals = np.zeros(256)
            scripts = [script(number * 256 + place) for place in range(256)]
            for step in range(3):
                observations, rewards = env.step([said[step] for said in scripts])[:2]
                assert checked(observations) == (256 if step < 2 else 0)
                totals += np.asarray(rewards, dtype=float)
            assert (totals == 1.0).all()
        return rounds * 256

    return run


def skyrl_search(stub: Stub) -> Callable[[int], float]:
    import skyrl_gym.tools.search as tools
    from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

    def answer(query: str, **_: Any) -> tuple[dict[str, Any], None]:
        found = [
            {"document": {"contents": passage.contents}, "score": 1.0}
            for passage in stub.pick(query)
        ]
        return {"result": [found]}, None

    tools.call_search_api = answer
    config = SearchEnvConfig(log_requests=False)

    def play(number: int) -> float:
        extras = {"reward_spec": {"ground_truth": {"target": ["Paris"]}}, "max_turns": 5}
        env = SearchEnv(config, extras)
        env.init([{"role": "user", "content": QA_TASKS[number % 512].prompt}])
        played = [env.step(action) for action in script(number)]
        env.close()
        told = [step["observations"][0]["content"] for step in played if step["observations"]]
        assert checked(told) == 2
        return sum(float(step["reward"]) for step in played)

    return play


def skyrl_math(number: int) -> float:
    from skyrl_gym.envs.gsm8k.env import GSM8kEnv

    task = MATH_TASKS[number % 512]
    env = GSM8kEnv(None, {"reward_spec": {"ground_truth": task.answers[0]}})
    env.init([{"role": "user", "content": task.prompt}])
    reward = float(env.step(solution(task.answers[0]))["reward"])
    env.close()
    return reward


def alone(play: Callable[[int], float], episodes: int) -> Run:
    def run() -> int:
        assert all(play(number) == 1.0 for number in range(episodes))
        return episodes

    return run


def threaded(play: Callable[[int], float], episodes: int) -> Run:
    pool = ThreadPoolExecutor(max_workers=32)

    def run() -> int:
        assert all(total == 1.0 for total in pool.map(play, range(episodes)))
        return episodes

    return run


def main(options: Options) -> None:
    stub, episodes = Stub(options.seed), options.episodes
    search = skyrl_search(stub)
    runs: dict[tuple[str, str, str], Run] = {
        ("QA", "ovd, scored and recorded", "1"): ours_one(stub, episodes, "oracle"),
        ("QA", "ovd, recorded only", "1"): ours_one(stub, episodes, None),
        ("QA", "gem-llm", "1"): gem_one(stub, episodes),
        ("QA", "skyrl-gym", "1"): alone(search, episodes),
        ("QA", "ovd, scored and recorded", "256"): ours_many(stub, episodes, "oracle"),
        ("QA", "ovd, recorded only", "256"): ours_many(stub, episodes, None),
        ("QA", "gem-llm", "256"): gem_many(stub, episodes),
        ("QA", "skyrl-gym", "256"): threaded(search, episodes),
        ("Math", "ovd, scored and recorded", "1"): ours_one_math(episodes),
        ("Math", "skyrl-gym", "1"): alone(skyrl_math, episodes),
        ("Math", "ovd, scored and recorded", "256"): ours_many_math(256, episodes),
        ("Math", "skyrl-gym", "256"): threaded(skyrl_math, episodes),
    }
    rates: dict[tuple[str, str, str], list[float]] = {key: [] for key in runs}
    for _ in range(options.repetitions):
        for key, run in runs.items():
            began = time.perf_counter()
            played = run()
            rates[key].append(played / (time.perf_counter() - began))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    show(medians)
    record: dict[str, Any] = {
        "episodes": episodes,
        "repetitions": options.repetitions,
        "seed": options.seed,
        **surroundings(["gymnasium", "gem-llm", "skyrl-gym", "numpy"]),
        "episodes_per_second": {" | ".join(key): round(value) for key, value in medians.items()},
        "range": {" | ".join(k): [round(min(v)), round(max(v))] for k, v in rates.items()},
    }
    write_record(options.out, record)


def show(medians: dict[tuple[str, str, str], float]) -> None:
    table = Table("episode", "suite", "1 at once", "256 at once", title="episodes/s")
    for kind, suite in dict.fromkeys(key[:2] for key in medians):
        cells = (f"{medians[kind, suite, batch]:,.0f}" for batch in ("1", "256"))
        table.add_row(kind, suite, *cells)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
