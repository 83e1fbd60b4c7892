"""Multi-turn question answering over a search engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ovd_envs.episode import Episode, Task
from ovd_envs.errors import OptionError, SearchUnavailable
from ovd_envs.grading.strict import strict_match
from ovd_envs.grading.text import exact_match, f1_score
from ovd_envs.grammar import Action, render_documents, render_error
from ovd_envs.options import Options
from ovd_envs.scenario import Grade, Response, Scenario
from ovd_envs.scenarios import WEBQA
from ovd_envs.search import make_search
from ovd_envs.search.base import PacedSearch, SearchEngine, SearchRequest
from ovd_envs.search.index import IndexSearch, cached_index
from ovd_envs.tasks.benchmarks import frozen_of, given_tasks
from ovd_envs.tasks.fiction import Split, World
from ovd_envs.teachers import make_teacher
from ovd_envs.teachers.base import Judge, TeacherContext
from ovd_envs.teachers.rubrics import QUESTION
from ovd_envs.wording import ANSWER_TOOL, SEARCH_TOOL, TAGS, TOOLS, call_of, worded
from retrieval_index.documents import Document

PROMPTS = {
    TAGS: (
        "Answer the question. Think in <think></think>, search with <search>query</search>, "
        "read what comes back in <information></information>, and finish with "
        "<answer>answer</answer>.\nQuestion: {question}\n"
    ),
    TOOLS: (
        "Answer the question. Think in <think></think>, search with\n"
        f"{call_of('search', 'query')}\n"
        "read what comes back in <information></information>, and finish with\n"
        f"{call_of('answer', 'answer')}\n"
        "Question: {question}\n"
    ),
}
ADVICE = "Write <search>query</search> to search or <answer>answer</answer> to finish."


GRADERS = {"squad": (exact_match, "text"), "strict": (strict_match, "strict")}
"""By name, with the `grade_source` of their episodes."""


@dataclass(frozen=True, kw_only=True)
class WebQAOptions(Options):
    """Multi-turn question answering over a search engine."""

    search: Any = None
    """The search engine: an index folder, a URL, a name, module:Class, or an object. By default
    the index of the generated encyclopedia."""
    top_k: int = 1
    """Passages that a search returns."""
    grader: Literal["squad", "strict"] = "squad"
    """When an answer is right: "squad" compares as SQuAD does, and most papers; "strict" is
    Unicode-aware, and keeps signs and decimal points."""
    passages: int = 2000
    """Size of the generated encyclopedia."""
    world_seed: int = 0
    """Which encyclopedia is generated."""
    hops: tuple[int, ...] = (1, 2)
    """Searches that the generated questions need."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.top_k) is not int or self.top_k < 1:
            raise OptionError(f"top_k={self.top_k!r}: expected an integer, at least 1")
        if self.grader not in GRADERS:
            expected = f"expected one of {', '.join(GRADERS)}"
            raise OptionError(f"grader={self.grader!r}: {expected}")


class WebQA(Scenario):
    """Questions whose answers must be searched for, `top_k` passages a search."""

    stop_strings = ("</search>", "</answer>")
    rubric = QUESTION

    def __init__(self, options: WebQAOptions, teacher: Judge | None, search: SearchEngine) -> None:
        super().__init__(options, teacher)
        self.search = search
        self.top_k = options.top_k
        self._matches, self._source = GRADERS[options.grader]

    def prompt(self, task: Task) -> str:
        return worded(self.options.prompt, task, PROMPTS)

    def tools(self) -> list[Mapping[str, Any]]:
        return [SEARCH_TOOL, ANSWER_TOOL]

    def pace(self, share: float) -> dict[str, float]:
        if not isinstance(self.search, PacedSearch):
            return {}
        return {"search_noise": self.search.pace(share)}

    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        requests = [
            SearchRequest(action.content, episode)
            for episode, action in zip(episodes, actions, strict=True)
            if action.kind == "search"
        ]
        try:
            found = iter(self._found(requests))
        except Exception as error:  # whatever a search engine raises, those who asked must know
            fault = SearchUnavailable(f"the search engine failed: {error}")
            fault.__cause__ = error
            return [
                Response(fault=fault) if action.kind == "search" else _respond(action)
                for action in actions
            ]
        return [
            _shown(action, next(found)) if action.kind == "search" else _respond(action)
            for action in actions
        ]

    def _found(self, requests: list[SearchRequest]) -> Sequence[Sequence[Document] | None]:
        """One call for all requests; none if there are no requests."""
        results = self.search.search(requests, self.top_k) if requests else []
        if len(results) != len(requests):
            raise ValueError(f"{len(results)} lists of passages came for {len(requests)} queries")
        return results

    def grade(self, task: Task, answer: str) -> Grade:
        if self._matches(answer, task.answers):
            return Grade(1.0, 1.0, self._source)
        return Grade(0.0, f1_score(answer, task.answers), self._source)


def _check_world(tasks: Sequence[Task], search: Any) -> None:
    """Raises OptionError for generated questions over an index that lacks their passages."""
    get = getattr(search, "get", None)
    if get is None or not tasks:
        return
    try:
        get(tasks[0].supporting)
    except KeyError:
        raise OptionError(
            "search=<an index of other passages> without tasks: the generated questions are about"
            " an invented world; give tasks=<file or benchmark> too"
        ) from None


_SILENCE = Response()


def _shown(action: Action, documents: Sequence[Document] | None) -> Response:
    if documents is None:
        why = f"the search engine has nothing that can be used for {action.content[:80]!r}"
        return Response(fault=SearchUnavailable(why))
    return Response(render_documents(documents), tuple(documents))


def _respond(action: Action) -> Response:
    """To what is no search."""
    if action.kind == "answer":
        return _SILENCE
    why = "you only thought" if action.kind == "think" else action.content
    return Response(render_error(why, ADVICE))


def build(options: WebQAOptions) -> tuple[WebQA, Sequence[Task]]:
    """The scenario, and the tasks of `options`."""
    if (frozen := frozen_of(options.tasks)) is not None:
        return frozen.built(options, build)
    if isinstance(options.tasks, str | Path) and options.search is None:
        raise OptionError(
            f"questions from a file ({options.tasks}) need search=<index folder or search engine>"
        )
    passages, seed = options.passages, options.world_seed
    search = (
        _built_in_search(passages, seed) if options.search is None else make_search(options.search)
    )
    context = TeacherContext(WEBQA, WebQA.rubric, options.max_turns, options.score_levels, search)
    scenario = WebQA(options, make_teacher(options.teacher, context), search)
    if options.tasks is None:
        tasks = _generated(passages, seed, options.split, options.count, options.hops)
        _check_world(tasks, search)
        return scenario, tasks
    return scenario, given_tasks(options.tasks)


@lru_cache(maxsize=4)
def _world(passages: int, seed: int) -> World:
    return World(passages, seed)


@lru_cache(maxsize=16)
def _generated(
    passages: int, seed: int, split: Split, count: int, hops: tuple[int, ...]
) -> Sequence[Task]:
    return tuple(_world(passages, seed).tasks(split, count=count, hops=hops))


@lru_cache(maxsize=4)
def _built_in_search(passages: int, seed: int) -> SearchEngine:
    return IndexSearch(cached_index(_world(passages, seed).passages))
