"""What a query asks for, of what the task knows: what a simulated engine may tell."""

from __future__ import annotations

import re
from typing import NamedTuple

from ovd_envs.episode import Episode, Task

_WORD = re.compile(r"\w+")
_IDLE = frozenset("the a an of is in on for to who what which where when was did does and".split())
_TALK = frozenset("answer correct final information instructions more question right tell".split())
"""Of those who talk to the engine instead of asking for something."""
_WHOLE = "answer"
"""The relation of a question that was never taken apart, as one hop."""


class Hop(NamedTuple):
    """The `relation` of `subject` is `value`."""

    relation: str
    subject: str
    value: str


def chain_of(task: Task) -> list[Hop]:
    """The hops of the task's chain whose queries have the form "relation of subject"."""
    found: list[Hop] = []
    for link in task.metadata.get("chain") or []:
        relation, _, subject = str(link["query"]).partition(" of ")
        if subject:
            found.append(Hop(relation, subject, str(link["answer"])))
    return found


def hops_of(task: Task) -> list[Hop]:
    """Every hop of the chain; of a task without a chain the question as one."""
    found = chain_of(task)
    if not found and task.answers:
        found.append(Hop(_WHOLE, task.prompt.rstrip(" ?"), task.answers[0]))
    return found


def asked_for(query: str, task: Task) -> tuple[Hop, float] | None:
    """The hop whose subject a query names, and which share of its relation the query has. A
    question that was never taken apart is asked for by half of its words."""
    asked, best = _content(query), None
    for hop in hops_of(task):
        relation, subject = _content(hop.relation), _content(hop.subject)
        if hop.relation == _WHOLE:
            share = len(asked & subject) / max(1, len(subject))
            named = share >= 0.5
        else:
            share = len(asked & relation) / max(1, len(relation))
            named = bool(subject) and subject <= asked
        if named and (best is None or share > best[1]):
            best = hop, share
    return best


def follows(query: str, episode: Episode) -> bool:
    """Whether a query has a word of the question or of what was read."""
    read = [each.text for turn in episode.turns for each in turn.documents]
    titles = [each.title for turn in episode.turns for each in turn.documents]
    known = _content(" ".join([episode.task.prompt, *titles, *read]))
    return bool(_content(query) & known - _TALK)


def _content(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _IDLE}
