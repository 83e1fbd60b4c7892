"""Multi-turn question answering over a search engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ovd_envs.episode import Episode, Task
from ovd_envs.errors import OptionError, SearchUnavailable
from ovd_envs.grammar import Action, render_documents, render_error
from ovd_envs.rewards import exact_match, f1_score
from ovd_envs.scenario import Grade, Response, Rules, Scenario
from ovd_envs.search.base import SearchEngine
from ovd_envs.teachers.base import Teacher
from retrieval_index.documents import Document

PROMPT = (
    "Answer the question. Think in <think></think>, search with <search>query</search>, "
    "read what comes back in <information></information>, and finish with "
    "<answer>answer</answer>.\nQuestion: {question}\n"
)
ADVICE = "Write <search>query</search> to search or <answer>answer</answer> to finish."


class WebQA(Scenario):
    """Questions whose answers must be searched for, `top_k` passages a search."""

    stop_strings = ("</search>", "</answer>")

    def __init__(
        self, rules: Rules, teacher: Teacher | None, search: SearchEngine, top_k: int = 3
    ) -> None:
        super().__init__(rules, teacher)
        if type(top_k) is not int or top_k < 1:
            raise OptionError(f"top_k={top_k!r}: expected an integer, at least 1")
        self.search = search
        self.top_k = top_k

    def prompt(self, task: Task) -> str:
        return PROMPT.format(question=task.prompt)

    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        queries = [action.content for action in actions if action.kind == "search"]
        try:
            found = iter(self._found(queries))
        except Exception as error:  # whatever a search engine raises, those who asked must know
            fault = SearchUnavailable(f"the search engine failed: {error}")
            fault.__cause__ = error
            return [
                Response(fault=fault) if action.kind == "search" else _respond(action, iter(()))
                for action in actions
            ]
        return [_respond(action, found) for action in actions]

    def _found(self, queries: list[str]) -> list[list[Document]]:
        """One call for all, each different query once, none if nobody searches."""
        distinct = list(dict.fromkeys(queries))
        results = self.search.search(distinct, self.top_k) if distinct else []
        if len(results) != len(distinct):
            raise ValueError(f"{len(results)} lists of passages came for {len(distinct)} queries")
        passages = dict(zip(distinct, results, strict=True))
        return [passages[query] for query in queries]

    def grade(self, task: Task, answer: str) -> Grade:
        if exact_match(answer, task.answers):
            return Grade(1.0, 1.0)
        return Grade(0.0, f1_score(answer, task.answers))


_SILENCE = Response()


def _respond(action: Action, found: Iterator[Sequence[Document]]) -> Response:
    if action.kind == "search":
        documents = tuple(next(found))
        return Response(render_documents(documents), documents)
    if action.kind == "answer":
        return _SILENCE
    why = "you only thought" if action.kind == "think" else action.content
    return Response(render_error(why, ADVICE))
