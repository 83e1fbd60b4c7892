"""Teachers by name. A package adds its own by the entry-point group `ovd.teachers`."""

from __future__ import annotations

from typing import Any

from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import Judge, Teacher, TeacherContext
from retrieval_index.registry import Registry

TEACHERS: Registry[Teacher] = Registry("teacher", "ovd.teachers")
"""Builders are given the options and a TeacherContext."""
DEFAULT_TEACHER = "oracle"


def _server(address: str) -> dict[str, Any]:
    model, _, url = address.partition("@")
    return {"model": model, "base_url": url} if url else {"model": model}


TEACHERS.register(
    DEFAULT_TEACHER,
    "ovd_envs.teachers.oracle.teacher:build",
    "ovd_envs.teachers.oracle.teacher:OracleOptions",
)
TEACHERS.register(
    "openai",
    "ovd_envs.teachers.llm.teacher:build",
    "ovd_envs.teachers.llm.teacher:LLMOptions",
    _server,
)

TEACHERS.register(
    "environment_agent",
    "ovd_envs.teachers.environment_agent:build",
    "ovd_envs.teachers.environment_agent:AgentOptions",
    _server,
)


def make_teacher(given: Any, context: TeacherContext) -> Judge | None:
    """The teacher that is given by name, `module:Class`, mapping or as an object; None for none.

    Raises OptionError for anything else.
    """
    if given is None:
        return None
    teacher: Any = TEACHERS.choose(given).build(context)
    if not isinstance(teacher, Judge):
        raise OptionError(
            f"teacher={given!r:.100} has no method score(requests): expected one of"
            f" {', '.join(TEACHERS.names())}, openai:MODEL@URL, module:Class, an object, or None"
        )
    return teacher
