"""Episodes as text for people to read."""

from __future__ import annotations

import sys

from ovd_envs.episode import Episode


def render_episode(episode: Episode) -> str:
    """A whole episode for people to read."""
    turns = [render_turn(episode, number) for number in range(1, len(episode.turns) + 1)]
    return "\n".join([episode.prompt.rstrip(), *turns])


def render_turn(episode: Episode, number: int) -> str:
    turn = episode.turns[number - 1]
    score = "no score"
    if turn.score and turn.score.level is not None:
        score = f"score {turn.score.level} ({turn.score.source}: {turn.score.rationale})"
    paid = "no reward" if turn.reward is None else f"reward {turn.reward:.2f}"
    lines = [f"--- turn {number}: {turn.kind} · {score} · {paid}"]
    lines += [turn.action.strip(), turn.observation.strip()]
    if episode.done and number == len(episode.turns):
        grade = "not graded"
        if episode.exact_match is not None and episode.f1 is not None:
            right = "right" if episode.exact_match == 1 else "wrong"
            grade = f"{right}, exact match {episode.exact_match:.0f}, F1 {episode.f1:.2f}"
            if right == "wrong":
                grade += f"; expected {' or '.join(episode.task.answers)}"
        lines.append(f"=== {episode.end_reason}: {grade}")
    return "\n".join(line for line in lines if line)


def show(text: str) -> None:
    """Print even what the terminal cannot: a lone surrogate, or emoji where there is only ASCII."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
