"""What a run's folder says of the student in it: its environment, and how it plays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovd_agent.cli.parse import value_of
from ovd_agent.learner.folders import BEST
from ovd_agent.runs.config import CONFIG_FILE, read_config

_KEPT = ("env", "eval_tasks", "rollout")


def options_of_run(arguments: Sequence[str]) -> dict[str, Any]:
    """The environment and rollout options of the run whose folder is --student; none if it is
    another student. A command line that names another environment keeps the rollout options."""
    student = value_of(arguments, "--student")
    folder = Path(student or ".")
    folder = folder.parent if folder.name == BEST else folder
    if student is None or not (folder / "checkpoints").is_dir():
        return {}
    if not (folder / CONFIG_FILE).is_file():
        return {}
    found = read_config(folder)
    return {name: found[name] for name in _KEPT if found.get(name) is not None}
