"""Command lines of configurations whose parts are chosen by name.

A part's name is an option (`--algorithm ovd`), and its own options follow it
(`--algorithm.threshold 6`): which ones there are, and what `--help` shows, depends on the parts
that are chosen. A preset or a run's folder may say what the defaults are.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_origin

import tyro

from retrieval_index.options import check_names, converted, fields_of, hints_of, members
from retrieval_index.registry import Entry

T = TypeVar("T")
Chosen = dict[str, tuple[str, Entry[Any], dict[str, Any]]]
"""By field: the name that is given, its entry, and options that are given with the name."""
_SIMPLE = (str, int, float, bool, type(None), Path)
_GROUP = "__options"
_OF_ENV = ("teacher", "search")
"""Options of an environment that are parts themselves."""
_NOBODY = "none"


def parse(
    cls: type[T], arguments: Sequence[str], doc: str, defaults: Mapping[str, Any] | None = None
) -> T:
    """An instance of the configuration `cls` from a command line.

    `cls.PARTS` names the fields that are parts, with the tables that know their names. `defaults`
    are options as a TOML file holds them. Raises OptionError, and SystemExit as argparse does.
    """
    given = dict(defaults or {})
    check_names("the preset", given, hints_of(cls))
    chosen = _chosen(cls, arguments, given)
    parsed = tyro.cli(_shown(cls, chosen, given), args=list(arguments), description=doc)
    values = {each.name: getattr(parsed, each.name) for each in fields_of(cls)}
    for name, (label, _, _) in chosen.items():
        options = getattr(parsed, name + _GROUP, None)
        values[name] = {"name": label, **(vars(options) if options is not None else {})}
    return cls(**values)


def _chosen(cls: type[Any], arguments: Sequence[str], given: Mapping[str, Any]) -> Chosen:
    """The parts that are chosen on the command line, in `given`, or by default."""
    found: Chosen = {}
    defaults = {each.name: each.default for each in fields_of(cls)}
    for field, look_up in getattr(cls, "PARTS", {}).items():
        part: Any = given.get(field, defaults[field])
        if part is None and field in _OF_ENV:
            _, entry, values = found["env"]
            usual = {each.name: each.default for each in fields_of(entry.options or object)}
            part = values.get(field, usual.get(field))
        said = value_of(arguments, f"--{field.replace('_', '-')}")
        if said is not None and said != (part.get("name") if isinstance(part, Mapping) else part):
            part = said
        if part is not None and part != _NOBODY:
            entry, values = look_up(part)
            label = part["name"] if isinstance(part, Mapping) else part
            found[field] = cast(str, label), entry, values
    return found


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """The last value of an option on a command line."""
    found = None
    for word, following in pairwise([*arguments, None]):
        if word == option:
            found = following
        elif word is not None and word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _shown(cls: type[Any], chosen: Chosen, given: Mapping[str, Any]) -> Any:
    """The dataclass that tyro reads: simple types only, and the options of the chosen parts."""
    parts = getattr(cls, "PARTS", {})
    plain = {name: value for name, value in given.items() if name not in parts}
    fields = _fields(cls, plain, leave_out=tuple(parts))
    helps, defaults = field_help(cls), {each.name: each.default for each in fields_of(cls)}
    for name in parts:
        default = chosen[name][0] if name in chosen else given.get(name, defaults[name])
        kind: Any = str if isinstance(default, str) else str | None
        fields.append(_field(name, kind, default, helps.get(name, "")))
    for name, (_, entry, values) in chosen.items():
        if entry.options is not None:
            options = _options(entry.options, values)
            annotated = Annotated[options, tyro.conf.arg(name=name)]
            fields.append((name + _GROUP, annotated, dataclasses.field()))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True)


def _options(cls: type[Any], given: Mapping[str, Any]) -> type[Any]:
    """The options of a part, without those that a command line cannot give."""
    made = dataclasses.make_dataclass(
        cls.__name__, _fields(cls, given, leave_out=_OF_ENV), kw_only=True
    )
    made.__doc__ = inspect.getdoc(cls)
    return made


def _fields(
    cls: type[Any], given: Mapping[str, Any], leave_out: tuple[str, ...]
) -> list[tuple[str, Any, Any]]:
    helps, hints = field_help(cls), hints_of(cls)
    check_names(cls.__name__, given, hints)
    found: list[tuple[str, Any, Any]] = []
    for each in fields_of(cls):
        kind = parseable(hints[each.name])
        if each.name in leave_out or kind is None:
            continue
        default: Any = each.default
        if each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        if each.name in given:
            default = converted(given[each.name], hints[each.name], each.name)
        if isinstance(default, Path) and str in members(kind):
            default = str(default)
        found.append(_field(each.name, kind, default, helps.get(each.name, "")))
    return found


def _field(name: str, kind: Any, default: Any, help_text: str) -> tuple[str, Any, Any]:
    annotated = Annotated[kind, tyro.conf.arg(help=help_text)] if help_text else kind
    if default is dataclasses.MISSING:
        return name, annotated, dataclasses.field()
    return name, annotated, dataclasses.field(default_factory=lambda: default)


def parseable(hint: Any) -> Any:
    """The part of a type that a command line can give, None if there is none: of "a file or a list
    of tasks" the file."""
    kinds: list[Any] = (
        [str] if hint is Any else [each for each in members(hint) if _is_simple(each)]
    )
    if str in kinds:
        kinds = [each for each in kinds if each is not Path]
    if hint is Any:
        kinds.append(type(None))
    return Union[tuple(kinds)] if kinds else None  # noqa: UP007 - known at run time only


def _is_simple(kind: Any) -> bool:
    return kind in _SIMPLE or dataclasses.is_dataclass(kind) or get_origin(kind) in (tuple, Literal)


@lru_cache(maxsize=256)
def field_help(cls: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass, by name; inherited ones too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or typed in
            continue
        for field, text in pairwise(cast("ast.ClassDef", tree.body[0]).body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    name = cast("ast.Name", field.target).id
                    found[name] = " ".join(value.value.split())
    return found
