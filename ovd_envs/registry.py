"""Environments by id: Gymnasium's registry is the table, an entry says how to build a scenario."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

import gymnasium
from gymnasium.error import Error as GymnasiumError

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.options import Options
from ovd_envs.scenario import Scenario
from ovd_envs.scenarios import WEBQA
from retrieval_index.options import class_path
from retrieval_index.registry import Choice, Entry, choice_of, load

GROUP = "ovd.environments"
"""The entry-point group of packages that register environments when imported."""
DEFAULT_ENV = WEBQA
Made = tuple[Scenario, Sequence[Task]]


def register(
    env_id: str,
    *,
    scenario: str | Callable[..., Made],
    options: str | type[Options],
    **spec: Any,
) -> None:
    """Make an environment known to `gymnasium.make`, `make_vec`, `Trainer` and the `ovd` command.

    Args:
        env_id: such as "me/Code-v0".
        scenario: a function from `options` to the scenario and its tasks, or its import path
            "module:function".
        options: the subclass of `Options` that the environment takes, or its import path.
        spec: further arguments of `gymnasium.register`.
    """
    gymnasium.register(  # pyright: ignore[reportUnknownMemberType]
        env_id,
        entry_point="ovd_envs.env:make_env",
        vector_entry_point="ovd_envs.vector_env:make_vector_env",
        kwargs={"env_id": env_id, "scenario": _path(scenario), "options_type": _path(options)},
        **spec,
    )


def environment(env_id: str) -> Entry[Made]:
    """The environment of this id; "package:id" imports the package that registers it first.

    Raises OptionError for an id that is unknown or not one of this suite's environments.
    """
    spec = _spec(env_id)
    if "options_type" not in spec.kwargs:
        raise OptionError(
            f"environment {env_id!r} was not registered by ovd_envs.register: it has no scenario"
        )
    return _entry(env_id, spec.kwargs["scenario"], spec.kwargs["options_type"])


def environments() -> list[str]:
    """The ids of this suite's environments, those of installed packages included."""
    _import_plugins()
    return sorted(
        name for name, spec in gymnasium.registry.items() if "options_type" in spec.kwargs
    )


def choose_environment(given: Any) -> Choice[Made]:
    """An environment and its options, given as an id, or as a mapping of "name" and options.

    Raises OptionError, naming the option, for an unknown one or a bad value.
    """
    if isinstance(given, Choice):
        return cast("Choice[Made]", given)
    entry, values = look_up_environment(given)
    return choice_of(entry, values, entry.name)


def look_up_environment(given: Any) -> tuple[Entry[Made], dict[str, Any]]:
    """An environment, and the options that are given with it. Raises OptionError."""
    values: dict[str, Any] = {"name": given} if isinstance(given, str) else {}
    if isinstance(given, Mapping):
        values = dict(cast("Mapping[str, Any]", given))
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise OptionError(f'env={given!r:.100}: expected an id, or a mapping with "name" in it')
    return environment(name), values


def made(env_id: str, scenario: Any, options_type: Any, options: Mapping[str, Any]) -> Made:
    """As `make_scenario`, of what a Gymnasium spec holds."""
    return choice_of(_entry(env_id, scenario, options_type), options, env_id).build()


def make_scenario(env_id: str, **options: Any) -> Made:
    """The scenario of an environment and the tasks to play in it.

    `options` are the fields of the environment's options dataclass. Raises OptionError, naming the
    option, for an unknown one or a bad value.
    """
    return choose_environment({"name": env_id, **options}).build()


def _entry(env_id: str, scenario: Any, options_type: Any) -> Entry[Made]:
    build: Any = load(scenario, "environment") if isinstance(scenario, str) else scenario
    options: Any = (
        load(options_type, "environment") if isinstance(options_type, str) else options_type
    )
    return Entry(env_id, build, options)


def _spec(env_id: str) -> Any:
    package, _, name = env_id.rpartition(":")
    try:
        if package:
            import_module(package)
        elif name not in gymnasium.registry:
            _import_plugins()
        return gymnasium.spec(name)
    except (GymnasiumError, ModuleNotFoundError) as error:
        raise OptionError(
            f"no environment {env_id!r} ({error}): expected one of {', '.join(environments())}, or"
            " package:id, which imports the package first"
        ) from None


def _import_plugins() -> None:
    for point in entry_points(group=GROUP):
        point.load()


def _path(target: Any) -> Any:
    """The import path of a function or class, so that a spec can be printed and pickled; itself
    where it has none."""
    if isinstance(target, str) or "<" in target.__qualname__:
        return target
    return class_path(target)
