"""The oracle's rules of questions that are answered by searching.

| level | search                          | answer to a question              |
| ----: | ------------------------------- | --------------------------------- |
|     9 | brings the next gold passage    | right, every gold passage read    |
|     8 | brings a later gold passage     |                                   |
|     7 |                                 | right, some gold passage read     |
|     6 | the right query, but it misses  | right, no gold passage read       |
|     5 | names the right entity, misses  |                                   |
|     4 | new passages, query on topic    |                                   |
|     3 | new passages, query off topic;  | wrong, but overlaps the answer    |
|       | or nothing was left to find     |                                   |
|     2 | nothing new; or only thought    | wrong, though all gold was read   |
|     1 | repeats an earlier query        | wrong, and gold was still missing |
|     0 | the action is invalid           | the action is invalid             |

A thought that misstates a fact of the chain ("mayor of Keldorf is" the wrong person) takes 3 from
the level of its step, down to 1 at the lowest. A thought before a search that plans hops which the
question does not have, or leaves one out ("seat of Embersen Press, then its seat" where the seat of
Embersen Press is asked for), brings the step down to 2: it commits the student to another question.

A question without gold passages takes every passage that contains an answer for gold. Of a gold
passage that an index split, a piece is gold where it contains an answer, or where several passages
are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from ovd_envs.episode import Episode, Task, Turn
from ovd_envs.errors import TaskError
from ovd_envs.grading.text import normalize
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.oracle.thoughts import Verdict, thought_of, write_action
from retrieval_index.documents import Document
from retrieval_index.mentions import mentions

MISREAD_COST = 3
WRONG_PLAN = 2
RETRIES = 2
"""Other queries tried for a passage that the first one missed."""

Link = Mapping[str, str]
Lookup = Callable[[Iterable[str]], Sequence[Document]]


def search_or_answer(
    episode: Episode, left: float, lookup: Lookup | None, *, thinks_aloud: bool
) -> str:
    """The next action, of which at most `left` are left."""
    task, chain = episode.task, _chain(episode.task)
    asked = {normalize(turn.content) for turn in episode.turns if turn.kind == "search"}
    known = _known(chain, episode, asked)
    missing = _ways(chain[known]) if known < len(chain) else []
    queries = missing if chain else _queries(episode, lookup)
    query = next((query for query in queries if normalize(query) not in asked), None)
    if query is None or left <= 1:
        thought = f"{chain[-1]['query']} is {task.answers[0]}" if chain else _cite(episode)
        return write_action(thought if thinks_aloud else "", "answer", task.answers[0])
    return write_action(_plan(chain, known) if thinks_aloud else "", "search", query)


def _queries(episode: Episode, lookup: Lookup | None) -> list[str]:
    """What to search for where no chain says so: the question, then what is still missing."""
    task, read = episode.task, _read(episode.task, episode.turns)
    if read and _all_read(task, episode.turns, read):
        return []
    unread = [passage_id for passage_id in task.supporting if passage_id not in read]
    missing = [_passage(passage_id, task, lookup) for passage_id in unread if lookup]
    titles = [passage.title for passage in missing if passage.title]
    texts = [f"{passage.title} {passage.text[:200]}".strip() for passage in missing]
    return [task.prompt, *titles, *texts, f"{task.prompt} {task.answers[0]}"]


def _passage(passage_id: str, task: Task, lookup: Lookup) -> Document:
    """From the index, or the first piece where the index split it."""
    for name in (passage_id, f"{passage_id}#0"):
        try:
            return lookup([name])[0]
        except KeyError:
            continue
    raise TaskError(
        f"task {task.id!r} needs the passage {passage_id!r}, which the index does not hold:"
        " were the questions written for another corpus?"
    )


def _cite(episode: Episode) -> str:
    found = [document for turn in episode.turns for document in turn.documents]
    gold = [document for document in found if gold_id(document, episode.task)]
    if not gold:
        return f"I believe the answer is {episode.task.answers[0]}"
    return f"According to {gold[-1].title or 'the passage'}, it is {episode.task.answers[0]}"


def _plan(chain: Sequence[Link], known: int) -> str:
    """What was found last, or is to be found first, and what comes after: "author of The Tower is
    Ada Berg, then its birthplace"."""
    if not chain:
        return ""
    last = chain[known - 1] if known else chain[0]
    said = f"{last['query']} is {last['answer']}" if known else last["query"]
    rest = chain[known:] if known else chain[1:]
    return said + "".join(f", then its {link['query'].partition(' of ')[0]}" for link in rest)


def _chain(task: Task) -> list[Link]:
    return list(task.metadata.get("chain", ()))


def _read(task: Task, turns: Sequence[Turn]) -> set[str]:
    """Ids of the passages that were read; a piece that is gold stands for its passage."""
    found = [document for turn in turns for document in turn.documents]
    if not task.supporting:
        return {document.id for document in found}
    return {gold_id(document, task) or document.id for document in found}


def _gold_read(task: Task, turns: Sequence[Turn], read: set[str]) -> set[str]:
    """Which of the passages that were read in these turns are gold."""
    if task.supporting:
        return read.intersection(task.supporting)
    found = [document for turn in turns for document in turn.documents if document.id in read]
    return {document.id for document in found if says(document, task.answers)}


def gold_id(document: Document, task: Task) -> str | None:
    """Of the gold passage that this is, or is the piece of that matters; else None."""
    gold = task.supporting
    if document.id in gold or (not gold and says(document, task.answers)):
        return document.id
    piece = document.source in gold and (len(gold) > 1 or says(document, task.answers))
    return document.source if piece else None


def says(document: Document, answers: Sequence[str]) -> bool:
    return mentions(f"{document.title} {document.text}", answers)


def _all_read(task: Task, turns: Sequence[Turn], read: set[str]) -> bool:
    gold = _gold_read(task, turns, read)
    return bool(gold) and gold.issuperset(task.supporting)


def _ways(link: Link) -> list[str]:
    """The query of a link, and others for when it misses."""
    return [link["query"], _entity(link), f"{link['query']} {link['answer']}"][: 1 + RETRIES]


def _entity(link: Link) -> str:
    """Whom or what a link asks about: "mayor of Keldorf" asks about Keldorf."""
    return link["query"].partition(" of ")[2] or link["query"]


def _known(chain: Sequence[Link], episode: Episode, asked: set[str]) -> int:
    """How many links lie behind: passage read, or every way of finding it tried."""
    read = _read(episode.task, episode.turns)
    for index, link in enumerate(chain):
        if link["passage"] not in read and not asked.issuperset(map(normalize, _ways(link))):
            return index
    return len(chain)


def judge_question(request: ScoreRequest, *, judges_plans: bool = True) -> Verdict:
    turn = request.turn
    if turn.kind == "think":
        return 2, "Only thought: neither searched nor answered."
    level, why = _judge_search(request) if turn.kind == "search" else _judge_answer(request)
    if judges_plans and turn.kind == "search" and level > WRONG_PLAN and _plans_wrongly(request):
        return WRONG_PLAN, f"Plans other hops than the question has. {why}"
    misread = _misread(request.episode.task, turn)
    if misread is None:
        return level, why
    return max(1, level - MISREAD_COST), f"Misstates the {misread['query']}. {why}"


_PLANNED = re.compile(r",? then its (.+?)(?=,? then its |$)", re.MULTILINE)


def _plans_wrongly(request: ScoreRequest) -> bool:
    """Whether the thought says what comes after this search, and is wrong about it."""
    chain, thought = _chain(request.episode.task), thought_of(request.turn)
    read = _read(request.episode.task, request.episode.turns[: request.index])
    place = next((i for i, link in enumerate(chain) if link["passage"] not in read), None)
    if place is None or not thought:
        return False
    planned = [normalize(found) for found in _PLANNED.findall(thought)]
    if not planned and normalize(chain[place]["query"]) not in normalize(thought):
        return False  # it says nothing of what comes
    hops = [normalize(link["query"].partition(" of ")[0]) for link in chain]
    # A plan may name the hop of this search, after what was found before, or begin behind it.
    ways = [hops[place + 1 :], hops[place:]] if place else [hops[1:]]
    return planned not in ways


def _misread(task: Task, turn: Turn) -> Link | None:
    """The link of which the thought says "{query} is" something that it is not."""
    chain = _chain(task)
    thought = thought_of(turn) if chain else ""
    for link in chain:
        right = task.answers if link is chain[-1] else (link["answer"],)
        for match in re.finditer(rf"{re.escape(link['query'])} is (.+)", thought, re.IGNORECASE):
            said = normalize(match[1])
            if not any(f"{said} ".startswith(f"{normalize(answer)} ") for answer in right):
                return link
    return None


def _judge_search(request: ScoreRequest) -> Verdict:
    task, turn = request.episode.task, request.turn
    before = request.episode.turns[: request.index]
    query = normalize(turn.content)
    if any(earlier.kind == "search" and normalize(earlier.content) == query for earlier in before):
        return 1, "Repeats an earlier query."
    read = _read(task, before)
    new = _read(task, [turn]) - read
    if not _all_read(task, before, read):
        gold = _gold_read(task, [turn], new)
        link = next((link for link in _chain(task) if link["passage"] not in read), None)
        if gold and (link is None or link["passage"] in gold):
            return 9, "Brings the next passage that is needed."
        if gold:
            return 8, "Brings a passage that is needed later."
        if link and normalize(link["query"]) in query:
            return 6, "Asks the right thing, but the passage was not found."
        if link and normalize(_entity(link)) in query:
            return 5, "Names the right entity, but the passage was not found."
    elif new:
        return 3, "Everything needed had been read: this search was not."
    if not new:
        return 2, "Brings nothing new."
    if not _content_words(task.prompt).isdisjoint(query.split()):
        return 4, "New passages on the topic, none of them needed."
    return 3, "New passages, off the topic."


_FUNCTION_WORDS = "what who when where which how is are was were do does did of in on to for"
_EMPTY_WORDS = frozenset(_FUNCTION_WORDS.split())


@lru_cache(maxsize=4096)  # a question is asked of every search for its answer
def _content_words(text: str) -> frozenset[str]:
    return frozenset(normalize(text).split()) - _EMPTY_WORDS


def _judge_answer(request: ScoreRequest) -> Verdict:
    episode, before = request.episode, request.episode.turns[: request.index]
    read = _read(episode.task, before)
    complete = _all_read(episode.task, before, read)
    if episode.exact_match:
        if complete:
            return 9, "Right, and everything needed was read."
        if not read.isdisjoint(episode.task.supporting):
            return 7, "Right, but a needed passage was not read."
        return 6, "Right, but nothing that was read supports it."
    if episode.f1:
        return 3, "Wrong, but it overlaps the right answer."
    if complete:
        return 2, "Wrong, though everything needed was read."
    return 1, "Wrong, and answered before reading what was needed."
