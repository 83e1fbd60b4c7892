"""The options that all environments share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.teachers import DEFAULT_TEACHER
from ovd_envs.wording import TAGS, check_prompt

RewardMode = Literal["outcome", "verbal", "mixed"]
Outcome = Literal["exact_match", "f1"]
OnError = Literal["raise", "mark"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that all environments share; each environment adds its own in a subclass.

    An option is declared here or there, with its one default, and nowhere else.
    """

    tasks: str | Path | Sequence[Task] | None = None
    """A JSON Lines file of tasks (or, in Python, a list of them), instead of generated ones."""
    split: Literal["train", "test"] = "train"
    """Which generated tasks; the two splits share none."""
    count: int = 2000
    """Number of generated tasks."""
    prompt: Any = TAGS
    """Prompt format: "tags", "tools" (JSON tool calls), or a text with {question}; in Python also a
    function of the task."""
    teacher: Any = DEFAULT_TEACHER
    """Who scores each step: a name, module:Class, or an object; None for no scores."""
    reward: RewardMode = "outcome"
    """Reward of the last step: "outcome" is the grade; "verbal" the mean score of all steps, scaled
    to 0-1, and 0 without an answer; "mixed" their sum. Earlier steps pay 0."""
    outcome: Outcome = "exact_match"
    """Which grade is the outcome."""
    max_turns: int = 3
    """Truncate an episode after this many turns."""
    max_invalid: int | None = 1
    """End the episode after this many invalid actions. Each invalid action still uses one turn."""
    max_chars: int = 100_000
    """Truncate an episode with more text than this."""
    score_levels: int = 10
    """v: verbal scores run from 0 to v - 1."""
    on_error: OnError = "raise"
    """If a search engine or teacher fails: "raise" an exception and leave the episode unchanged, or
    "mark" the episode as truncated, with end_reason "infrastructure" and no reward."""

    def __post_init__(self) -> None:
        choices = {
            "split": ("train", "test"),
            "reward": ("outcome", "verbal", "mixed"),
            "outcome": ("exact_match", "f1"),
            "on_error": ("raise", "mark"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                expected = f"expected one of {', '.join(known)}"
                raise OptionError(f"{name}={getattr(self, name)!r}: {expected}")
        check_prompt(self.prompt)
        minima = {"max_turns": 1, "max_invalid": 1, "max_chars": 1, "score_levels": 2, "count": 1}
        for name, minimum in minima.items():
            value = getattr(self, name)
            unlimited = name == "max_invalid" and value is None
            if not unlimited and (type(value) is not int or value < minimum):
                raise OptionError(f"{name}={value!r}: expected an integer, at least {minimum}")
