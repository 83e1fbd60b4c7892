"""What can go wrong in an environment. Every message is one sentence that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retrieval_index.errors import OptionError, OVDError

if TYPE_CHECKING:
    from ovd_envs.episode import Turn

__all__ = [
    "EpisodeOverError",
    "OVDError",
    "OptionError",
    "SearchUnavailable",
    "ServiceUnavailable",
    "TaskError",
    "TeacherUnavailable",
]


class TaskError(OVDError, ValueError):
    """A task, or a file of tasks, is missing or malformed."""


class EpisodeOverError(OVDError, ValueError):
    """An action for an episode that has ended."""


class ServiceUnavailable(OVDError, RuntimeError):
    """A search engine or teacher failed: nothing was made up, nothing was lost.

    `failed` are the places in the batch whose episodes stand as they were before the step, so
    that the same actions may be tried again; `turns` are the finished turns of the other places.
    """

    def __init__(
        self, message: str, failed: tuple[int, ...] = (), turns: Mapping[int, Turn] | None = None
    ) -> None:
        super().__init__(message)
        self.failed = failed
        self.turns = dict(turns or {})


class SearchUnavailable(ServiceUnavailable):
    """The search engine did not answer."""


class TeacherUnavailable(ServiceUnavailable):
    """The teacher did not score."""
