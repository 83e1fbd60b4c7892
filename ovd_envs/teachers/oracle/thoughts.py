"""What the oracle's rules of questions and of problems share."""

from __future__ import annotations

from collections.abc import Sequence

from ovd_envs.episode import Turn
from ovd_envs.grammar import parse_action, tagged

Verdict = tuple[int, str]
"""A score 0..9, and why."""


def write_action(thought: str, tag: str, content: str) -> str:
    said = tagged("think", thought) if thought else ""
    return said + (tagged(tag, content) if content else "")


def thoughts_of(turns: Sequence[Turn]) -> str:
    return "\n".join(map(thought_of, turns)).strip()


def thought_of(turn: Turn) -> str:
    """What was thought in a turn; all of it, where the answer was not in a tag."""
    action = parse_action(turn.action)
    return turn.action if action.kind != turn.kind else action.thought
