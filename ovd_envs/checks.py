"""Checks of what a caller of the Gymnasium environments passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovd_envs.episode import Task


def as_text(action: Any) -> str:
    if not isinstance(action, str):
        raise TypeError(f"the action is of type {type(action).__name__}: expected a str")
    return str(action)  # of numpy's strings too


def check_parts(tasks: Sequence[Task], render_mode: str | None, modes: Sequence[str]) -> None:
    if not tasks:
        raise ValueError("tasks is empty: expected at least one Task")
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"render_mode={render_mode!r}: expected None or one of {', '.join(modes)}")


def check_options(options: Mapping[str, Any] | None, known: Sequence[str]) -> None:
    for name in options or {}:
        if name not in known:
            raise ValueError(f"reset has no option {name!r}: expected one of {', '.join(known)}")
