"""What judging and demonstrating cost: scores, actions, seconds, requests and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast, runtime_checkable

from ovd_envs.scenario import Scenario


@runtime_checkable
class Counted(Protocol):
    """What a teacher keeps of its requests, as numbers by name."""

    def record(self) -> dict[str, Any]: ...


class TeacherCosts:
    """Reads the counters of scenarios and of their teachers, each once."""

    def __init__(self, scenarios: Sequence[Scenario], teachers: Sequence[object]) -> None:
        self._costs = list({id(each.costs): each.costs for each in scenarios}.values())
        self._teachers = list({id(each): each for each in teachers if each is not None}.values())
        engines = [getattr(each, "search", None) for each in scenarios]
        self._engines = list({id(each): each for each in engines if each is not None}.values())
        self._before = self._read()

    def taken(self) -> tuple[dict[str, Any], dict[str, float]]:
        """What was counted since the last look, and the seconds of judging and acting.

        What a server said of its requests, tokens and faults stands under `usage`, which is empty
        for teachers without one; what a simulated search engine wrote, under `search`.
        """
        now = self._read()
        found, self._before = _minus(now, self._before), now
        seconds = {name: found.pop(f"{name}_seconds") for name in ("judging", "acting")}
        return found, seconds

    def _read(self) -> dict[str, Any]:
        found = total([asdict(costs) for costs in self._costs])
        found["usage"] = _counted([getattr(each, "usage", None) for each in self._teachers])
        writers = [getattr(each, "writer", None) for each in self._engines]
        written = [getattr(each, "written", None) for each in self._engines]
        found["search"] = _counted(written)
        found["search"] |= _counted([getattr(each, "usage", None) for each in writers])
        return found


def _counted(kept: Sequence[object]) -> dict[str, Any]:
    return total([each.record() for each in kept if isinstance(each, Counted)])


def total(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of numbers by name, also of nested ones."""
    found: dict[str, Any] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, Mapping):
                inner = cast("Mapping[str, Any]", value)
                found[name] = total([found.get(name, {}), inner])
            elif isinstance(value, int | float):
                found[name] = found.get(name, 0) + value
    return found


def _minus(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in now.items():
        if isinstance(value, Mapping):
            inner = cast("Mapping[str, Any]", value)
            found[name] = _minus(inner, before.get(name, {}))
        else:
            found[name] = value - before.get(name, 0)
    return found
