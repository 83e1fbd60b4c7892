"""Multi-turn question answering over a search engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovd_envs.episode import Episode, Task
from ovd_envs.grammar import Action, render_documents, render_error
from ovd_envs.rewards import exact_match, f1_score
from ovd_envs.scenario import Grade, Response, Scenario, SearchEngine

PROMPT = (
    "Answer the question. Think in <think></think>, search with <search>query</search>, "
    "read what comes back in <information></information>, and finish with "
    "<answer>answer</answer>.\nQuestion: {question}\n"
)
ADVICE = "Write <search>query</search> to search or <answer>answer</answer> to finish."


class WebQA(Scenario):
    """Questions whose answers must be searched for, `top_k` passages a search."""

    stop_strings = ("</search>", "</answer>")

    def __init__(self, search: SearchEngine, *, top_k: int = 3, **options: Any) -> None:
        super().__init__(**options)
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1")
        self.search = search
        self.top_k = top_k

    def prompt(self, task: Task) -> str:
        return PROMPT.format(question=task.prompt)

    def respond(self, episodes: Sequence[Episode], actions: Sequence[Action]) -> list[Response]:
        queries = [action.content for action in actions if action.kind == "search"]
        results = self.search.search(queries, self.top_k) if queries else []
        if len(results) != len(queries):
            raise ValueError(
                f"the search engine answered {len(queries)} queries with {len(results)} lists: "
                "expected one list of passages for each query"
            )
        found = iter(results)
        return [self._response(action, found) for action in actions]

    def _response(self, action: Action, found: Any) -> Response:
        if action.kind == "search":
            documents = tuple(next(found))
            return Response(render_documents(documents), documents)
        if action.kind == "answer":
            return Response("")
        why = "you only thought" if action.kind == "think" else action.content
        return Response(render_error(why, ADVICE))

    def grade(self, task: Task, answer: str) -> Grade:
        return Grade(exact_match(answer, task.answers), f1_score(answer, task.answers))
