"""An unfinished build on disk: of what it is, how far it got, and that nobody else works on it.

my_index/
  building/         the files of the next generation
  building.json     the plan, and the steps that are done
  building.lock     held by the process that builds
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retrieval_index.errors import IndexExistsError
from retrieval_index.files import locked, write_atomically
from retrieval_index.manifest import CURRENT, newest_generation, point_to

FOLDER = "building"
STATE = "building.json"
LOCK = "building.lock"

Plan = Mapping[str, Any]
"""What is built from what: a build goes on only if all of it is as it was."""


@contextmanager
def building(target: Path) -> Generator[None]:
    """Make the index folder and hold its lock. Raises IndexExistsError if another process does.

    An empty folder is removed again.
    """
    held = IndexExistsError(
        f"{target} is being built by another process; wait for it, or choose another folder"
    )
    with locked(target / LOCK, held):
        try:
            yield
        finally:
            with suppress(OSError):
                (target / LOCK).unlink()
                target.rmdir()  # leave no empty folder behind a failure


def finish_commit(target: Path) -> Plan | None:
    """End a build that was killed between the move of its folder and its last step; returns its
    plan, or None where there is no such build."""
    path = target / STATE
    if not path.exists() or (target / FOLDER).exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if not state["done"].get("committing"):
        return None
    point_to(newest_generation(target), target)
    path.unlink()
    return state["plan"]


class BuildState:
    """The folder and the state of the build that is under way; open it under the lock."""

    def __init__(self, target: Path, plan: Plan, *, restart: bool = False) -> None:
        """Go on with the unfinished build of this plan, or begin. Raises IndexExistsError naming
        what differs where another one is unfinished, unless `restart` discards that."""
        self.target, self.folder = target, target / FOLDER
        self._state = target / STATE
        self._plan: dict[str, Any] = json.loads(json.dumps(plan))
        self._done: dict[str, Any] = {}
        if restart or not self._state.exists():
            self.discard()
        else:
            self._resume()
        self.folder.mkdir(exist_ok=True)
        self._save()

    def done(self, step: str) -> Any:
        """What `finish` noted for a step; None if it is not done."""
        return self._done.get(step)

    def finish(self, step: str, result: Any = True) -> None:
        """Note that a step is done, or how far it got. Its files must be on the disk already."""
        self._done[step] = result
        self._save()

    def discard(self) -> None:
        """Remove the unfinished build."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._state.unlink(missing_ok=True)
        for half_written in (
            *self.target.glob(f"{STATE}.*.tmp"),
            *self.target.glob(f"{CURRENT}.*.tmp"),
        ):
            half_written.unlink()
        self._done = {}

    def _resume(self) -> None:
        state: dict[str, Any] = json.loads(self._state.read_text("utf-8"))
        for name, theirs in state["plan"].items():
            if theirs != self._plan.get(name):
                raise IndexExistsError(
                    f"{self.target} holds an unfinished build with {name}={theirs!r}, not"
                    f" {self._plan.get(name)!r}: give the same to go on, or"
                    " --restart (restart=True) to discard it"
                )
        # Without the folder it was killed on the way to its end, after the move of the folder.
        self._done = state["done"] if self.folder.exists() else {}

    def _save(self) -> None:
        state = {"plan": self._plan, "done": self._done}
        write_atomically(self._state, json.dumps(state, indent=2) + "\n")
