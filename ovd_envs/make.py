"""Keyword arguments to a Scenario and its tasks: for `gymnasium.make` and the trainer alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Rules, Scenario
from ovd_envs.search.base import SearchEngine
from ovd_envs.teachers.base import Teacher

if TYPE_CHECKING:
    from ovd_envs.tasks.fiction import World

Split = Literal["train", "test"]
Tasks = str | Path | Sequence[Task] | None
TeacherLike = Teacher | str | None
Made = tuple[Scenario, Sequence[Task]]

_RULES = tuple(field.name for field in fields(Rules))


def make_scenario(env_id: str, **options: Any) -> Made:
    """The scenario of a registered environment and the tasks to play in it.

    `options` are the fields of `Rules` and the keyword arguments of `webqa` or `math`. Raises
    OptionError, naming the option, on an unknown one or a bad value.
    """
    builder = _BUILDERS.get(env_id)
    if builder is None:
        raise OptionError(f"no environment {env_id!r}: expected {' or '.join(_BUILDERS)}")
    own = {name: value for name, value in options.items() if name not in _RULES}
    rules = {name: value for name, value in options.items() if name in _RULES}
    _check_names(env_id, own, list(inspect.signature(builder).parameters)[1:])
    return builder(_DEFAULTS[env_id] | rules, **own)


def webqa(
    rules: Mapping[str, Any],
    *,
    tasks: Tasks = None,
    search: str | Path | SearchEngine | None = None,
    teacher: TeacherLike = "oracle",
    split: Split = "train",
    passages: int = 2000,
    world_seed: int = 0,
    hops: Sequence[int] = (1, 2, 3),
    count: int = 1000,
    top_k: int = 3,
) -> Made:
    """Questions over a search engine; by default over a generated encyclopedia.

    `tasks`: a JSON Lines file or Tasks; `search`: an index folder or a SearchEngine. `passages`
    and `world_seed` shape the encyclopedia, `split`, `hops` and `count` the questions generated
    where these are None.
    """
    from ovd_envs.webqa import WebQA

    _check_integers(passages=passages, world_seed=world_seed, count=count)
    _check_integer_list(hops=hops)
    if isinstance(tasks, str | Path) and search is None:
        raise OptionError(
            f"questions from a file ({tasks}) need search=<index folder or SearchEngine>"
        )
    checked = Rules(**rules)
    engine = _search_engine(search, passages, world_seed)
    scenario = WebQA(checked, _teacher(teacher, checked, engine), engine, top_k)
    if tasks is None:
        tasks = _world(passages, world_seed).tasks(split, count=count, hops=hops)
    return scenario, _tasks(tasks)


def math(
    rules: Mapping[str, Any],
    *,
    tasks: Tasks = None,
    teacher: TeacherLike = "oracle",
    split: Split = "train",
    world_seed: int = 0,
    levels: Sequence[int] = (1, 2, 3),
    count: int = 1000,
) -> Made:
    """Mathematics step by step; by default on generated arithmetic problems.

    `tasks`: a JSON Lines file or Tasks. `split`, `world_seed`, `levels` and `count` shape the
    problems generated where it is None.
    """
    from ovd_envs.mathematics import Math

    _check_integers(world_seed=world_seed, count=count)
    _check_integer_list(levels=levels)
    checked = Rules(**rules)
    scenario = Math(checked, _teacher(teacher, checked, None))
    if tasks is None:
        from ovd_envs.tasks.arithmetic import arithmetic_tasks

        tasks = arithmetic_tasks(count, seed=world_seed, split=split, levels=levels)
    return scenario, _tasks(tasks)


_BUILDERS: dict[str, Callable[..., Made]] = {"ovd/WebQA-v0": webqa, "ovd/Math-v0": math}
_DEFAULTS: dict[str, dict[str, Any]] = {"ovd/WebQA-v0": {}, "ovd/Math-v0": {"max_turns": 8}}


@lru_cache(maxsize=4)
def _world(passages: int, seed: int) -> World:
    from ovd_envs.tasks.fiction import World

    return World(passages, seed)


@lru_cache(maxsize=4)
def _built_in_search(passages: int, seed: int) -> SearchEngine:
    from ovd_envs.search.index import cached_index

    return cached_index(_world(passages, seed).passages)


def _search_engine(search: Any, passages: int, seed: int) -> SearchEngine:
    from ovd_envs.search.index import open_search

    return _built_in_search(passages, seed) if search is None else open_search(search)


def _teacher(teacher: Any, rules: Rules, search: SearchEngine | None) -> Teacher | None:
    if teacher in ("oracle", "oracle-brief"):
        from ovd_envs.teachers.oracle import OracleTeacher

        # An index can look gold passages up by id, which tells the oracle what to search for.
        lookup, aloud = getattr(search, "get", None), teacher == "oracle"
        return OracleTeacher(lookup, max_turns=rules.max_turns, thinks_aloud=aloud)
    if isinstance(teacher, str) and teacher.startswith("openai:"):
        from ovd_envs.teachers.llm import LLMOptions, LLMTeacher

        model, _, url = teacher.removeprefix("openai:").partition("@")
        return LLMTeacher(LLMOptions(model, url) if url else LLMOptions(model))
    if teacher is not None and not isinstance(teacher, Teacher):
        raise OptionError(
            f"teacher={teacher!r}: expected 'oracle', 'oracle-brief', 'openai:MODEL@URL', None or a"
            " Teacher"
        )
    return teacher


def _tasks(tasks: Any) -> Sequence[Task]:
    if isinstance(tasks, str | Path):
        from ovd_envs.tasks.files import load_tasks

        return load_tasks(tasks)
    if not isinstance(tasks, Sequence) or not tasks or not isinstance(tasks[0], Task):
        raise OptionError(f"tasks={tasks!r:.100}: expected a JSON Lines file or a list of Tasks")
    return cast("Sequence[Task]", tasks)


def _check_names(env_id: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            everything = [*known, *_RULES]
            near = get_close_matches(name, everything, n=1)
            hint = f"did you mean {near[0]!r}? Known: " if near else "expected one of "
            raise OptionError(f"{env_id} has no option {name!r}: {hint}{', '.join(everything)}")


def _check_integers(**options: Any) -> None:
    for name, value in options.items():
        if type(value) is not int:
            raise OptionError(f"{name}={value!r}: expected an integer")


def _check_integer_list(**options: Any) -> None:
    for name, value in options.items():
        items = cast("list[Any]", value) if isinstance(value, list | tuple) else [None]
        if not all(type(item) is int for item in items):
            raise OptionError(f"{name}={value!r}: expected a list of integers")
