"""Keyword arguments to a Scenario and its tasks: for `gymnasium.make` and the trainer alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ovd_envs.episode import Task
from ovd_envs.scenario import RewardMode, Scenario, SearchEngine, Teacher

if TYPE_CHECKING:
    from ovd_envs.tasks.fiction import World

Split = Literal["train", "test"]
Tasks = str | Path | Sequence[Task] | None
TeacherLike = Teacher | Literal["oracle"] | None

_INTEGERS = ["passages", "world_seed", "count", "top_k", "max_turns", "max_chars", "score_levels"]
_INTEGER_LISTS = ("hops", "levels")


def make_scenario(env_id: str, **options: Any) -> tuple[Scenario, Sequence[Task]]:
    """The scenario of a registered environment and the tasks to play in it.

    `options` are the keyword arguments of `webqa` or `math`. Raises ValueError, naming the
    option, on an unknown one or a bad value.
    """
    builder = _BUILDERS.get(env_id)
    if builder is None:
        raise ValueError(f"no environment {env_id!r}: expected {' or '.join(_BUILDERS)}")
    known = inspect.signature(builder).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"{env_id} has no option {name!r}: expected one of {', '.join(known)}")
    for name, value in options.items():
        _check_numbers(name, value)
    return builder(**options)


def webqa(
    *,
    tasks: Tasks = None,
    search: str | Path | SearchEngine | None = None,
    teacher: TeacherLike = "oracle",
    reward: RewardMode = "outcome",
    split: Split = "train",
    passages: int = 2000,
    world_seed: int = 0,
    hops: Sequence[int] = (1, 2, 3),
    count: int = 1000,
    top_k: int = 3,
    max_turns: int = 5,
    max_chars: int = 100_000,
    score_levels: int = 10,
    missing_scores: Literal["raise", "mark"] = "raise",
) -> tuple[Scenario, Sequence[Task]]:
    """Questions over a search engine; by default over a generated encyclopedia.

    `tasks`: a JSON Lines file or Tasks; `search`: an index folder or a SearchEngine. `passages`
    and `world_seed` shape the encyclopedia, `split`, `hops` and `count` the questions generated
    where these are None.
    """
    from ovd_envs.webqa import WebQA

    if isinstance(tasks, str | Path) and search is None:
        raise ValueError(
            f"questions from a file ({tasks}) need search=<index folder or SearchEngine>"
        )
    scenario = WebQA(
        _search_engine(search, passages, world_seed),
        teacher=_teacher(teacher, max_turns),
        reward=reward,
        top_k=top_k,
        max_turns=max_turns,
        max_chars=max_chars,
        score_levels=score_levels,
        missing_scores=missing_scores,
    )
    if tasks is None:
        tasks = _world(passages, world_seed).tasks(split, count=count, hops=hops)
    return scenario, _tasks(tasks)


def math(
    *,
    tasks: Tasks = None,
    teacher: TeacherLike = "oracle",
    reward: RewardMode = "outcome",
    split: Split = "train",
    world_seed: int = 0,
    levels: Sequence[int] = (1, 2, 3),
    count: int = 1000,
    max_turns: int = 8,
    max_chars: int = 100_000,
    score_levels: int = 10,
    missing_scores: Literal["raise", "mark"] = "raise",
) -> tuple[Scenario, Sequence[Task]]:
    """Mathematics step by step; by default on generated arithmetic problems.

    `tasks`: a JSON Lines file or Tasks. `split`, `world_seed`, `levels` and `count` shape the
    problems generated where it is None.
    """
    from ovd_envs.mathematics import Math

    scenario = Math(
        teacher=_teacher(teacher, max_turns),
        reward=reward,
        max_turns=max_turns,
        max_chars=max_chars,
        score_levels=score_levels,
        missing_scores=missing_scores,
    )
    if tasks is None:
        from ovd_envs.tasks.arithmetic import arithmetic_tasks

        tasks = arithmetic_tasks(count, seed=world_seed, split=split, levels=levels)
    return scenario, _tasks(tasks)


_BUILDERS: dict[str, Callable[..., tuple[Scenario, Sequence[Task]]]] = {
    "ovd/WebQA-v0": webqa,
    "ovd/Math-v0": math,
}


@lru_cache(maxsize=4)
def _world(passages: int, seed: int) -> World:
    from ovd_envs.tasks.fiction import fiction

    return fiction(passages=passages, seed=seed)


@lru_cache(maxsize=4)
def _built_in_search(passages: int, seed: int) -> SearchEngine:
    from ovd_envs.search.index import cached_index

    return cached_index(_world(passages, seed).passages)


def _search_engine(search: Any, passages: int, seed: int) -> SearchEngine:
    from ovd_envs.search.index import open_search

    return _built_in_search(passages, seed) if search is None else open_search(search)


def _teacher(teacher: Any, max_turns: int) -> Teacher | None:
    if teacher == "oracle":
        from ovd_envs.teachers.oracle import OracleTeacher

        return OracleTeacher(max_turns=max_turns)
    if teacher is not None and not isinstance(teacher, Teacher):
        raise ValueError(f"teacher={teacher!r}: expected 'oracle', None or a Teacher")
    return teacher


def _tasks(tasks: Any) -> Sequence[Task]:
    if isinstance(tasks, str | Path):
        from ovd_envs.tasks.files import load_tasks

        return load_tasks(tasks)
    if not isinstance(tasks, Sequence) or not tasks or not isinstance(tasks[0], Task):
        raise ValueError(f"tasks={tasks!r:.100}: expected a JSON Lines file or a list of Tasks")
    return cast("Sequence[Task]", tasks)


def _check_numbers(name: str, value: Any) -> None:
    if name in _INTEGERS and not isinstance(value, int):
        raise ValueError(f"{name}={value!r}: expected an integer")
    if name in _INTEGER_LISTS:
        items = cast("list[Any]", value) if isinstance(value, list | tuple) else [None]
        if not all(isinstance(item, int) for item in items):
            raise ValueError(f"{name}={value!r}: expected a list of integers")
