"""Environments in which a student is taught by a teacher's verbal scores.

Importing registers `ovd/WebQA-v0` and `ovd/Math-v0` with Gymnasium. It loads gymnasium and numpy
only: an environment's parts are imported when one is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovd_envs.registry import environments, make_scenario, register
from ovd_envs.scenarios import MATH, WEBQA

if TYPE_CHECKING:
    from ovd_envs.env import TextEnv
    from ovd_envs.episode import Episode, Task, Turn, VerbalScore
    from ovd_envs.errors import OptionError, OVDError, SearchUnavailable, TeacherUnavailable
    from ovd_envs.options import Options
    from ovd_envs.scenario import Grade, Response, Scenario
    from ovd_envs.search.base import SearchEngine, SearchRequest
    from ovd_envs.search.index import IndexSearch
    from ovd_envs.teachers.base import Demonstrator, Judge, ScoreRequest, Teacher
    from ovd_envs.teachers.llm.teacher import LLMOptions, LLMTeacher
    from ovd_envs.teachers.oracle.teacher import OracleTeacher
    from ovd_envs.vector_env import TextVectorEnv

_HOMES = {
    **dict.fromkeys(("Episode", "Task", "Turn", "VerbalScore"), "episode"),
    **dict.fromkeys(("OVDError", "OptionError"), "errors"),
    **dict.fromkeys(("SearchUnavailable", "TeacherUnavailable"), "errors"),
    **dict.fromkeys(("Grade", "Response", "Scenario"), "scenario"),
    **dict.fromkeys(("SearchEngine", "SearchRequest"), "search.base"),
    **dict.fromkeys(("Demonstrator", "Judge", "ScoreRequest", "Teacher"), "teachers.base"),
    **dict.fromkeys(("LLMOptions", "LLMTeacher"), "teachers.llm.teacher"),
    "IndexSearch": "search.index",
    "Options": "options",
    "OracleTeacher": "teachers.oracle.teacher",
    "TextEnv": "env",
    "TextVectorEnv": "vector_env",
}

__all__ = [
    "Demonstrator",
    "Episode",
    "Grade",
    "IndexSearch",
    "Judge",
    "LLMOptions",
    "LLMTeacher",
    "OVDError",
    "OptionError",
    "Options",
    "OracleTeacher",
    "Response",
    "Scenario",
    "ScoreRequest",
    "SearchEngine",
    "SearchRequest",
    "SearchUnavailable",
    "Task",
    "Teacher",
    "TeacherUnavailable",
    "TextEnv",
    "TextVectorEnv",
    "Turn",
    "VerbalScore",
    "environments",
    "make_scenario",
    "register",
]

for _env_id, _file, _options in (
    (WEBQA, "webqa", "WebQAOptions"),
    (MATH, "mathematics", "MathOptions"),
):
    register(
        _env_id,
        scenario=f"ovd_envs.scenarios.{_file}:build",
        options=f"ovd_envs.scenarios.{_file}:{_options}",
    )


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ovd")
    if name not in _HOMES:
        raise AttributeError(f"module 'ovd_envs' has no attribute {name!r}")
    return getattr(import_module(f"ovd_envs.{_HOMES[name]}"), name)
