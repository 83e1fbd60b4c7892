"""Samples whose good beginning is kept, and which a demonstrator plays on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.rollouts.demonstrations import Demonstrations, Key, key_of
from ovd_agent.rollouts.group import Continuation, Group
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Episode


@dataclass(frozen=True, slots=True)
class Cut:
    """A sample of a group to be played on from before `turn`, counted from 0."""

    group: Group
    sample: Trajectory
    turn: int


def continue_samples(
    cuts: Sequence[Cut], demonstrations: Demonstrations, rollout: Rollout
) -> dict[str, float]:
    """Play on from every cut, all together, and add what comes to the groups.

    Equal beginnings are played on once. An end that is wrong, or does not fit into the student's
    length, is left out and counted. Returns figures for the log.
    """
    starts: dict[Key, Episode] = {}
    for cut in cuts:
        key = key_of(cut.sample.episode, cut.turn)
        starts.setdefault(key, demonstrations.scenario.resume(cut.sample.episode, cut.turn))
    ends = dict(zip(starts, demonstrations.complete(list(starts.values())), strict=True))
    came, turns = 0, 0
    counted: set[Key] = set()
    for cut in cuts:
        key = key_of(cut.sample.episode, cut.turn)
        if (episode := ends[key]) is None:
            continue
        trajectory = rollout.tokenized(episode, cut.sample, cut.turn)
        if len(trajectory.ids) > rollout.max_length:
            continue
        came += 1
        cut.group.continuations.append(Continuation(cut.sample, cut.turn, trajectory))
        if key not in counted:
            counted.add(key)
            turns += len(episode.turns) - cut.turn
    return {
        "continued": came,
        "continuations_failed": len(cuts) - came,
        "repaired": came / len(cuts) if cuts else 1.0,
        "kept_turns": sum(cut.turn for cut in cuts) / max(1, len(cuts)),
        "teacher_turns": turns,
    }
