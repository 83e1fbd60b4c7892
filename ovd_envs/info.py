"""The `info` of a reset and of a step, as Gymnasium gives it.

`info` of every step has

- `verbal_score` and `verbal_score_expected` (float): the teacher's judgement; absent if none;
- `rationale`: the teacher's reason, where it gave one;
- `score_source`: who judged, or "missing";
- `action_kind`: "search", "answer", "think" or "invalid"; `discarded_chars` (float): how much
  text after the deciding tag was not read;
- `queries` and `documents`: what was searched and found, as JSON;

and at the end of an episode `end_reason` ("answered", "turn_limit", "invalid_limit",
"length_limit" or "infrastructure"), `exact_match`, `f1` (float; absent after an infrastructure
failure), `grade_source`, and `episode_record`, the whole episode as one line of JSON for
`Episode.from_json`. `info` of a reset has `task_id`.
"""

from __future__ import annotations

from typing import Any

from ovd_envs.episode import MISSING, Episode, documents_json, json_text

Info = dict[str, Any]
NO_REWARD = float("nan")
"""Paid where a service failed: Gymnasium wants a number, and 0 would be a judgement."""


def reset_info(episode: Episode) -> Info:
    return {"task_id": episode.task.id}


def step_info(episode: Episode) -> Info:
    """What Gymnasium is told of the last turn: strings and floats only, and nothing made up."""
    turn, score = episode.turns[-1], episode.turns[-1].score
    info: Info = {
        "score_source": MISSING,
        "action_kind": turn.kind,
        "discarded_chars": float(turn.discarded_chars),
        "queries": f"[{json_text(turn.content)}]" if turn.kind == "search" else "[]",
        "documents": documents_json(turn.documents),
    }
    if score is not None and score.level is not None:
        info["score_source"] = score.source
        info["verbal_score"] = float(score.level)
        info["verbal_score_expected"] = float(
            score.level if score.expected is None else score.expected
        )
        if score.rationale:
            info["rationale"] = score.rationale
    if episode.done:
        info["end_reason"] = episode.end_reason
        if episode.exact_match is not None and episode.f1 is not None:
            info["exact_match"], info["f1"] = episode.exact_match, episode.f1
        if episode.grade_source is not None:
            info["grade_source"] = episode.grade_source
        info["episode_record"] = episode.to_json()
    return info
