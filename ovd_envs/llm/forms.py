"""In which form a server takes a request: OpenAI-compatible servers differ in what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ovd_envs.llm.text import Messages


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request is for, before a server's form is known."""

    messages: Messages
    max_tokens: int
    temperature: float
    choice: tuple[str, ...] = ()
    """The only replies allowed; their log-probabilities are asked for."""
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """Parameters of chat completions that a server takes."""

    structured: bool = True
    """`structured_outputs`, as vLLM has it."""
    top_logprobs: int = 20
    """0: no log-probabilities at all."""
    tokens: str = "max_tokens"
    temperature: bool = True
    system: bool = True
    """Messages of the role "system"."""
    seed: bool = True
    stop: bool = True

    def body(self, model: str, wish: Wish) -> dict[str, Any]:
        """The JSON of a request."""
        messages = wish.messages if self.system else _without_system(wish.messages)
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            self.tokens: wish.max_tokens,
        }
        if self.temperature:
            body["temperature"] = wish.temperature
        if wish.choice and self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if wish.choice and self.structured:
            body["structured_outputs"] = {"choice": list(wish.choice)}
        if wish.seed is not None and self.seed:
            body["seed"] = wish.seed
        if wish.stop and self.stop:
            body["stop"] = list(wish.stop)
        return body

    def without_refused(self, words: str) -> Form | None:
        """The form without the first parameter that a refusal names; None if it names none."""
        for pattern, reduce in _REFUSALS:
            if re.search(pattern, words, re.IGNORECASE) and (form := reduce(self)) != self:
                return form
        return None

    def difference(self, fuller: Form) -> str:
        """What this form leaves out or words differently, for a message."""
        names = [
            each.name
            for each in fields(self)
            if getattr(self, each.name) != getattr(fuller, each.name)
        ]
        return ", ".join(f"{_SPELT.get(name, name)}={getattr(self, name)!r}" for name in names)


_SPELT = {"structured": "structured_outputs", "tokens": "the token limit's name"}


def _fewer_logprobs(form: Form) -> Form:
    return replace(form, top_logprobs=5 if form.top_logprobs > 5 else 0)


_REFUSALS: Sequence[tuple[str, Callable[[Form], Form]]] = (
    (r"structured_outputs|guided_", lambda form: replace(form, structured=False)),
    (r"max_completion_tokens", lambda form: replace(form, tokens="max_completion_tokens")),
    (r"top_logprobs", _fewer_logprobs),
    (r"logprobs", lambda form: replace(form, top_logprobs=0)),
    (r"temperature", lambda form: replace(form, temperature=False)),
    (r"system.{0,40}role|role.{0,40}system|system message", lambda f: replace(f, system=False)),
    (r"\bseed\b", lambda form: replace(form, seed=False)),
    (r"\bstop\b", lambda form: replace(form, stop=False)),
    (r"extra_forbidden|unrecognized|unknown", lambda form: replace(form, structured=False)),
)
"""What a refusal says, and the form to ask in next."""


def _without_system(messages: Messages) -> Messages:
    """The same words with the system's at the head of the first message of the user."""
    said = [each["content"] for each in messages if each["role"] == "system"]
    rest = [dict(each) for each in messages if each["role"] != "system"]
    if said and rest:
        rest[0]["content"] = "\n\n".join([*said, rest[0]["content"]])
    return rest
