"""Tables of named parts: one table a kind, and every entry brings its options.

A part is given in one of four forms, everywhere: by the name in its table, as `module:Class`,
as a mapping of a name and options (`{"name": "ovd", "threshold": 6}`), or as an object. A pip
package adds names of its own by entry points in the table's group.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from retrieval_index.errors import OptionError
from retrieval_index.options import class_path, did_you_mean, make_options, plain

T = TypeVar("T")
Shorthand = Callable[[str], Mapping[str, Any]]
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A part that can be chosen.

    `options` is its dataclass of options, None if it has none. `build` makes it, given the options
    (where there are any) and what the kind's builders are given besides.
    """

    name: str
    build: Callable[..., T]
    options: type[Any] | None = None
    shorthand: Shorthand | None = None


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """An entry with its options."""

    entry: Entry[T]
    options: Any = None

    @property
    def name(self) -> str:
        return self.entry.name

    def build(self, *context: Any) -> T:
        """Make the part. Raises OptionError where its options do not fit."""
        given = () if self.entry.options is None else (self.options,)
        return self.entry.build(*given, *context)

    def record(self) -> dict[str, Any]:
        """Name and options, as a run saves and `Registry.choose` reads them."""
        return {"name": self.name} | (plain(self.options) if self.options is not None else {})


class Registry(Generic[T]):
    """The table of one kind of part.

    `group` is the entry-point group of packages that add to it. `fallback` names the entry that
    takes any other text as its shorthand: a search engine's folder, say.
    """

    def __init__(self, kind: str, group: str = "", fallback: str = "") -> None:
        self.kind = kind
        self._group = group
        self._fallback = fallback
        self._entries: dict[str, Callable[[], Entry[T]]] = {}

    def register(
        self,
        name: str,
        build: str | Callable[..., T],
        options: str | type[Any] | None = None,
        shorthand: Shorthand | None = None,
    ) -> None:
        """Add an entry; texts are import paths, read when the entry is chosen.

        `shorthand` turns the rest of "name:rest" into options.
        """

        def entry() -> Entry[T]:
            cls = load(options, self.kind) if isinstance(options, str) else options
            made = load(build, self.kind) if isinstance(build, str) else build
            return Entry(name, made, cls, shorthand)

        self._entries[name] = entry

    def names(self) -> list[str]:
        """Every name, those of installed packages included."""
        plugins = entry_points(group=self._group) if self._group else ()
        return sorted({*self._entries, *(point.name for point in plugins)})

    def entry(self, name: str) -> Entry[T]:
        """The entry of this name, or of the object at this import path. Raises OptionError."""
        if name in self._entries:
            return self._entries[name]()
        for point in entry_points(group=self._group) if self._group else ():
            if point.name == name:
                return entry_of(name, point.load())
        if _IMPORT_PATH.fullmatch(name):
            return entry_of(name, load(name, self.kind))
        raise OptionError(
            f"no {self.kind} is called {name!r}: {did_you_mean(name, self.names())}, or"
            " module:Class"
        )

    def choose(self, given: Any) -> Choice[T]:
        """The part that is given in any of the four forms. Raises OptionError."""
        if isinstance(given, Choice):
            return cast("Choice[T]", given)
        if not isinstance(given, str | Mapping):
            return self._object(given)
        entry, values = self.look_up(cast("str | Mapping[str, Any]", given))
        return choice_of(entry, values, f"{self.kind} {entry.name!r}")

    def look_up(self, given: str | Mapping[str, Any]) -> tuple[Entry[T], dict[str, Any]]:
        """The entry of a name, or of a mapping with a name, and the options that are given with it.

        Raises OptionError if there is none such.
        """
        values = {"name": given} if isinstance(given, str) else dict(given)
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise OptionError(f'{self.kind}={given!r:.100}: expected a "name" in it')
        head, colon, rest = name.partition(":")
        if colon and head in self._entries and name not in self._entries:
            entry = self.entry(head)
        elif self._fallback and not self._is_known(name):
            entry, rest = self.entry(self._fallback), name
        else:
            return self.entry(name), values
        if entry.shorthand is None:
            raise OptionError(f"{self.kind} {name!r}: expected {head!r}, without {rest!r}")
        return entry, {**entry.shorthand(rest), **values}

    def _is_known(self, name: str) -> bool:
        return name in self.names() or bool(_IMPORT_PATH.fullmatch(name))

    def _object(self, given: Any) -> Choice[T]:
        """An object's name is its table's where its class is there, else its import path."""
        if isinstance(given, type) or given is None:
            raise OptionError(
                f"{self.kind}={given!r}: expected a name ({', '.join(self.names())}), module:Class,"
                " a mapping with a name, or an object"
            )
        cls = cast("type[Any]", type(given))
        name = class_path(cls)
        for known in self._entries:
            entry = self._entries[known]()
            if entry.options is cls or entry.build is cls:
                name = known
        options = given if dataclasses.is_dataclass(given) else getattr(given, "options", None)
        held: Any = options if dataclasses.is_dataclass(options) else None
        kind = None if held is None else cast("type[Any]", type(held))
        part = cast("T", given)
        return Choice(Entry(name, _give(part), kind), held)


def choice_of(entry: Entry[T], values: Mapping[str, Any], owner: str) -> Choice[T]:
    """An entry with options of these values. Raises OptionError where they do not fit."""
    if entry.options is not None:
        return Choice(entry, make_options(entry.options, values, owner))
    if values:
        raise OptionError(f"{owner} has no options: leave out {', '.join(values)}")
    return Choice(entry)


def entry_of(name: str, target: Any) -> Entry[Any]:
    """The entry of a class or function outside the tables.

    A dataclass is its own options. A class with a nested dataclass `Options` takes one of these.
    Anything else takes nothing.
    """
    if dataclasses.is_dataclass(target):
        return Entry(name, _itself, cast("type[Any]", target))
    options = getattr(target, "Options", None)
    if isinstance(options, type) and dataclasses.is_dataclass(options):
        return Entry(name, _without_context(target, 1), options)
    if not callable(target):
        raise OptionError(f"{name} is a {type(target).__name__}: expected a class or a function")
    return Entry(name, _without_context(target, 0))


def load(path: str, kind: str) -> Any:
    """What stands at `module:attribute`. Raises OptionError."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        # A package that the module itself lacks is its own story.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise OptionError(
            f"{kind} {path!r}: there is no module {module!r} here; run from its folder, or install"
            " it"
        ) from None
    except AttributeError:
        raise OptionError(f"{kind} {path!r}: {module} has no {attribute!r}") from None
    return found


def _itself(options: Any, *context: Any) -> Any:
    return options


def _give(part: T) -> Callable[..., T]:
    return lambda *context: part


def _without_context(target: Callable[..., T], taken: int) -> Callable[..., T]:
    """Called with its options alone, as no part from outside knows what ours are given."""

    def build(*given: Any) -> T:
        return target(*given[:taken])

    return build
