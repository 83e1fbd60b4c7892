"""The oracle's criteria of a whole task, for ratings of a group of episodes.

None of them asks whether the answer is the right one: as in ROPD (arXiv 2605.07396), what earns
points is the way to it. Where an answer was read or computed, it is mostly right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ovd_envs.episode import Episode, Task
from ovd_envs.grading.equations import find_equations
from ovd_envs.grading.text import normalize
from ovd_envs.teachers.base import Criterion, GroupRequest, GroupVerdict
from ovd_envs.teachers.oracle.problems import steps_of
from ovd_envs.teachers.oracle.questions import gold_id, says
from ovd_envs.teachers.oracle.thoughts import thought_of, thoughts_of
from ovd_envs.teachers.rubrics import QUESTION

Finds = Callable[[Episode], int | None]
"""The turn that fulfils a criterion, or None."""


def rate_group(request: GroupRequest) -> GroupVerdict | None:
    """None for a group without episodes."""
    if not request.episodes:
        return None
    first = request.episodes[0]
    rules = list(_of_question(first.task) if first.rubric == QUESTION else _of_problem(first.task))
    rules.append((Criterion("Every action is valid.", 1.0), _valid))
    return GroupVerdict(
        tuple(criterion for criterion, _ in rules),
        tuple(tuple(finds(episode) for _, finds in rules) for episode in request.episodes),
    )


def _of_question(task: Task) -> Iterator[tuple[Criterion, Finds]]:
    wanted = task.supporting or (None,)
    for number, passage in enumerate(wanted, 1):
        which = f"passage {number} of {len(wanted)} that is needed" if passage else "a passage"
        yield Criterion(f"A search brings {which}.", 2.0), lambda e, p=passage: _brings(e, p)
    yield Criterion("The answer stands in a passage that was read.", 3.0), _answer_was_read


def _of_problem(task: Task) -> Iterator[tuple[Criterion, Finds]]:
    for step in steps_of(task):
        yield (
            Criterion(f"A step finds that {step.text}.", 2.0),
            lambda episode, key=step.key: _states(episode, key),
        )
    yield Criterion("The result is that of the last equation.", 3.0), _answer_was_computed
    yield Criterion("No equation is false.", 2.0), _nothing_false


def _brings(episode: Episode, passage: str | None) -> int | None:
    for index, turn in enumerate(episode.turns):
        found = {gold_id(document, episode.task) for document in turn.documents} - {None}
        if found and (passage is None or passage in found):
            return index
    return None


def _answer_was_read(episode: Episode) -> int | None:
    read = [document for turn in episode.turns for document in turn.documents]
    answer = episode.answer
    if not answer or not normalize(answer) or not any(says(each, [answer]) for each in read):
        return None
    return len(episode.turns) - 1


def _states(episode: Episode, key: object) -> int | None:
    for index, turn in enumerate(episode.turns):
        if any(each.true and each.key == key for each in find_equations(thought_of(turn))):
            return index
    return None


def _answer_was_computed(episode: Episode) -> int | None:
    said = find_equations(thoughts_of(episode.turns))
    if not said or episode.answer is None:
        return None
    given = find_equations(f"{said[-1].result} + 0 = {episode.answer}")
    return len(episode.turns) - 1 if given and given[-1].true else None


def _nothing_false(episode: Episode) -> int | None:
    said = find_equations(thoughts_of(episode.turns))
    return len(episode.turns) - 1 if said and all(each.true for each in said) else None


def _valid(episode: Episode) -> int | None:
    valid = episode.turns and all(turn.kind != "invalid" for turn in episode.turns)
    return len(episode.turns) - 1 if valid else None
