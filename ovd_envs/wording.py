"""How a scenario asks: in tags, as calls of tools, or in the user's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError

TAGS, TOOLS = "tags", "tools"
PLACE = "{question}"
CALL_END = "</tool_call>"

Prompt = str | Callable[[Task], str]
"""A form of this module, a text with {question} in it, or a function of the task."""

SEARCH_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the passages; returns those that fit the query best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}
ANSWER_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "answer",
        "description": "Give the final answer, as short as it can be. This ends the episode.",
        "parameters": {
            "type": "object",
            "properties": {"answer": {"type": "string"}},
            "required": ["answer"],
        },
    },
}
"""Schemas as chat templates and APIs of tool-calling models take them."""
ARGUMENTS = {"search": "query", "answer": "answer"}
"""The one argument of each tool."""

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_TAGGED = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)


def check_prompt(prompt: Any) -> None:
    """Raises OptionError unless it is a `Prompt`."""
    if callable(prompt) or prompt in (TAGS, TOOLS):
        return
    if not isinstance(prompt, str) or PLACE not in prompt:
        raise OptionError(
            f"prompt={prompt!r:.60}: expected {TAGS!r}, {TOOLS!r}, or a text with {PLACE}"
        )


def worded(prompt: Prompt, task: Task, forms: Mapping[str, str]) -> str:
    """The first observation of an episode; `forms` are the scenario's own texts."""
    if not isinstance(prompt, str):
        return prompt(task)
    return forms.get(prompt, prompt).replace(PLACE, task.prompt)


def called(text: str) -> tuple[str, str, int] | str | None:
    """The first call of a tool in a student's text: the tool, its argument and the number of
    characters after it. A sentence if the call is wrong, None if there is none."""
    found = _CALL.search(text)
    if found is None:
        return None
    try:
        call: Any = json.loads(found[1])
    except (ValueError, RecursionError):
        return "<tool_call> holds no JSON"
    fields = cast("Mapping[str, Any]", call) if isinstance(call, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments")
    if name not in ARGUMENTS:
        return f"there is no tool {name!r:.40}"
    given = cast("Mapping[str, Any]", arguments) if isinstance(arguments, dict) else {}
    value = given.get(ARGUMENTS[name])
    if not isinstance(value, str | int | float) or not str(value).strip():
        return f'the tool {name} needs the argument "{ARGUMENTS[name]}"'
    return name, str(value).strip(), len(text[found.end() :].strip())


def as_call(action: str) -> str:
    """An action in tags, as teachers write them, as a call of a tool; thoughts stay as they are."""
    return _TAGGED.sub(lambda found: call_of(found[1], found[2].strip()), action)


def call_of(tool: str, value: str) -> str:
    """A call as Hermes's and Qwen's templates have it."""
    call = {"name": tool, "arguments": {ARGUMENTS[tool]: value}}
    text = json.dumps(call, ensure_ascii=False).replace(CALL_END, CALL_END.replace("/", "\\/"))
    return f"<tool_call>\n{text}\n{CALL_END}"
