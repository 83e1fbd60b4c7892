"""The samples of a task, rated together by whoever demonstrates it."""

from __future__ import annotations

from collections.abc import Sequence

from ovd_agent.rollouts.demonstrations import Demonstrations
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import GroupJudge, GroupRequest


def group_judge(demonstrations: Demonstrations) -> GroupJudge:
    """Whoever demonstrates, as judge of groups. Raises OptionError if that is none."""
    author = demonstrations.author
    if not isinstance(author, GroupJudge):
        raise OptionError(
            f"{type(author).__name__} has no method rate(requests), and this algorithm needs"
            " samples that are rated together: choose the oracle or a language model as teacher"
            " or demonstrator"
        )
    return author


def rate_samples(groups: Sequence[Group], demonstrations: Demonstrations) -> dict[str, float]:
    """Give each group its verdict, all asked for at once; returns figures for the log."""
    rated = [group for group in groups if group.played]
    requests = [
        GroupRequest(
            [sample.episode for sample in group.played],
            [shown.episode for shown in group.demonstrations],
        )
        for group in rated
    ]
    for group, verdict in zip(rated, group_judge(demonstrations).rate(requests), strict=True):
        group.verdict = verdict
    verdicts = [group.verdict for group in rated if group.verdict is not None]
    gains = [
        verdict.gains(place, len(sample.episode.turns))
        for group in rated
        for place, sample in enumerate(group.played)
        if (verdict := group.verdict) is not None
    ]
    ratings = [sum(each) for each in gains if each is not None]
    figures = {
        "groups_unrated": float(len(rated) - len(verdicts)),
        "samples_unrated": float(sum(each is None for each in gains)),
    }
    if ratings:
        figures["rating"] = sum(ratings) / len(ratings)
        figures["criteria"] = sum(len(each.criteria) for each in verdicts) / len(verdicts)
    return figures
