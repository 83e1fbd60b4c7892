"""Dataclasses of options from plain values, as they stand in TOML, JSON and keyword arguments."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from retrieval_index.errors import OptionError

T = TypeVar("T")


def make_options(cls: type[T], values: Mapping[str, Any], owner: str) -> T:
    """An instance of the dataclass `cls` from `values`.

    Lists become tuples and strings become paths where the field says so; a mapping becomes a nested
    dataclass, whose other options are those of the field's own default. `owner` names the part in
    messages. Raises OptionError for an unknown option, a missing one, and a value of the wrong
    type.
    """
    hints = hints_of(cls)
    check_names(owner, values, hints)
    fields = {each.name: each for each in fields_of(cls)}
    found = {
        name: converted(_completed(value, fields[name]), hints[name], name)
        for name, value in values.items()
    }
    for each in fields.values():
        if each.name not in found and not _has_default(each):
            raise OptionError(f"{owner} needs the option {each.name!r}: give it a value")
    return cls(**found)


def _completed(value: Any, field: dataclasses.Field[Any]) -> Any:
    """A mapping with what it leaves out of a nested dataclass, which may differ from one class that
    holds it to another."""
    if not isinstance(value, Mapping) or field.default_factory is dataclasses.MISSING:
        return value
    usual = field.default_factory()
    if not dataclasses.is_dataclass(usual):
        return value
    left = {each.name: getattr(usual, each.name) for each in fields_of(type(usual))}
    return {**left, **cast("Mapping[str, Any]", value)}


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise OptionError for the first name that is not known, with the nearest one that is."""
    known = list(known)
    for name in given:
        if name not in known:
            raise OptionError(f"{owner} has no option {name!r}: {did_you_mean(name, known)}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? Known: " if near else "expected one of "
    return hint + (", ".join(known) or "(none)")


def plain(value: Any) -> Any:
    """Options as JSON holds them: dataclasses become objects, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields_of(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in cast("Sequence[Any]", value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    named = cast("object", value) if hasattr(value, "__qualname__") else type(value)
    return class_path(named)


def class_path(target: Any) -> str:
    """`module:attribute`, by which an object is found again."""
    return f"{target.__module__}:{target.__qualname__}"


def fields_of(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    """The fields that `cls` takes as arguments."""
    return tuple(each for each in dataclasses.fields(cls) if each.init)


@lru_cache(maxsize=256)
def hints_of(cls: type[Any]) -> dict[str, Any]:
    """The types of the fields, by name."""
    hints = get_type_hints(cls, include_extras=True)
    return {each.name: hints[each.name] for each in fields_of(cls)}


def _has_default(each: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return each.default is not missing or each.default_factory is not missing


def members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; the type alone if it is none."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def converted(value: Any, hint: Any, name: str) -> Any:
    """`value` as an option of type `hint` holds it. Raises OptionError where it is of another."""
    for each in members(hint):
        fitting = _fitting(value, each, name)
        if fitting is not _NO:
            return fitting
    expected = " or ".join(_described(each) for each in members(hint))
    raise OptionError(f"{name}={value!r:.100}: expected {expected}")


_NO: Any = object()


def _fitting(value: Any, hint: Any, name: str) -> Any:
    """The value as `hint` has it, or _NO. Whoever uses a part checks its type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if hint is type(None) or value is None:
        return value if hint is type(None) and value is None else _NO
    if origin is Literal:
        return value if value in arguments else _NO
    if hint is bool or isinstance(value, bool):
        return value if hint is bool and isinstance(value, bool) else _NO
    if hint is float:
        return float(value) if isinstance(value, int | float) else _NO
    if hint in (int, str):
        return value if isinstance(value, hint) else _NO
    if hint is Path:
        return Path(value) if isinstance(value, str | Path) else _NO
    if origin is tuple:
        return _tuple(value, arguments, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return make_options(cast("type[Any]", hint), cast("Mapping[str, Any]", value), name)
    return value if _is_instance(value, origin or hint) else _NO


def _tuple(value: Any, arguments: tuple[Any, ...], name: str) -> Any:
    if not isinstance(value, list | tuple):
        return _NO
    items = cast("Sequence[Any]", value)
    if len(arguments) == 2 and arguments[1] is ...:
        return tuple(converted(item, arguments[0], name) for item in items)
    if len(items) != len(arguments):
        return _NO
    return tuple(converted(item, each, name) for item, each in zip(items, arguments, strict=True))


def _is_instance(value: Any, hint: Any) -> bool:
    if not isinstance(hint, type):
        return True
    try:
        return isinstance(value, hint)
    except TypeError:  # a protocol that cannot be checked at run time
        return True


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return "a list of " + {int: "integers", float: "numbers", str: "texts"}.get(
            get_args(hint)[0], "values"
        )
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    if hint is type(None):
        return "None"
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
