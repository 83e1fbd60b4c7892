"""The tag grammar of actions and observations (the one Search-R1 made common)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ovd_envs.episode import ActionKind
from ovd_envs.wording import called
from retrieval_index.documents import Document

TAGS = ("think", "search", "information", "answer")
_TAG = re.compile(r"<(/?)(think|search|information|answer)>")
_CALL_START = "<tool_call>"
_MARK = re.compile(r"<(/?)(think|search|information|answer|tool_call)>")
"""Every tag that text of others may not bring in."""


@dataclass(frozen=True, slots=True)
class Action:
    """A parsed action; for kind "invalid" the `content` says what was wrong."""

    kind: ActionKind
    content: str
    thought: str = ""
    discarded_chars: int = 0


@lru_cache(maxsize=4096)  # the scenario and the teacher both read an action
def parse_action(text: str) -> Action:
    """Parse any string into an action; never raises.

    The first complete `<search>…</search>` or `<answer>…</answer>` decides. `<think>…</think>`
    blocks and free text may come before it; what follows is not read, only counted, since it was
    written without having seen the observation. A `</think>` that nothing opened closes a thought
    that began with the text: many chat templates write the opening tag themselves. A call of a tool
    (`ovd_envs.wording`) is understood wherever a tag is.
    """
    call = called(text) if _CALL_START in text else None
    if call is not None:
        return _of_call(call, text)
    thoughts: list[str] = []
    open_tag, start, end = "", 0, 0
    for match in _TAG.finditer(text):
        closing, tag = match.groups()
        if tag == "information":
            return _invalid("only the environment writes <information>")
        if not closing:
            if open_tag:
                return _invalid(f"<{tag}> inside <{open_tag}>")
            open_tag, start = tag, match.end()
            continue
        if tag != open_tag and not (tag == "think" and end == 0 and not open_tag):
            return _invalid(f"</{tag}> without <{tag}>")
        content = text[start : match.start()].strip()
        open_tag, end = "", match.end()
        if tag == "think":
            thoughts.append(content)
            continue
        if not content:
            return _invalid(f"<{tag}> is empty")
        kind: ActionKind = "search" if tag == "search" else "answer"
        return Action(kind, content, "\n".join(thoughts), len(text[end:].strip()))
    if open_tag:
        return _invalid(f"<{open_tag}> is not closed")
    if thoughts:
        thought = "\n".join(thoughts)
        return Action("think", thought, thought, len(text[end:].strip()))
    return _invalid("no <think>, <search> or <answer>")


def _of_call(call: tuple[str, str, int] | str, text: str) -> Action:
    if isinstance(call, str):
        return _invalid(call)
    before = text.partition(_CALL_START)[0]
    if _TAG.search(before.replace("<think>", "").replace("</think>", "")):
        return _invalid("a tag other than <think> before <tool_call>")
    tool, value, discarded = call
    thought = _TAG.sub("", before).strip()
    return Action("search" if tool == "search" else "answer", value, thought, discarded)


def _invalid(why: str) -> Action:
    return Action("invalid", why)


def tagged(tag: str, content: str) -> str:
    """A block as our teachers write it, e.g. "<search> query</search>". Nothing in `content` can
    close or open a tag. The space makes content the same tokens as in running text, for any
    tokenizer; `parse_action` strips it."""
    return f"<{tag}> {_MARK.sub('', content).strip()}</{tag}>"


def render_documents(documents: Sequence[Document]) -> str:
    """The observation after a search. Tags inside a passage are defused, so that retrieved text
    can neither close the block nor pose as an action."""
    if not documents:
        return "\n<information>\nNo passage found.\n</information>\n"
    lines = [_line(rank, document) for rank, document in enumerate(documents, start=1)]
    return "\n<information>\n" + "\n".join(lines) + "\n</information>\n"


def _line(rank: int, document: Document) -> str:
    title = f"{document.title}: " if document.title else ""
    return f"[{rank}] {_defuse(title + document.text)}"


def render_error(why: str, advice: str) -> str:
    """The observation after an action that could not be carried out."""
    return f"\nInvalid action: {why}. {advice}\n"


def _defuse(text: str) -> str:
    return _MARK.sub(lambda match: f"({match[1]}{match[2]})", text) if "<" in text else text
