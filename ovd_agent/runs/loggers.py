"""Where the figures of a run are shown, by name. log.jsonl and eval.jsonl are written anyway."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ovd_envs.errors import OptionError
from retrieval_index.registry import Registry

PROJECT = "ovd"


@dataclass(frozen=True, slots=True)
class RunOf:
    """The run that is shown: its folder, its options, and the update that it goes on from."""

    folder: Path
    config: Mapping[str, Any]
    resume_from: int = 0

    @property
    def id(self) -> str:
        """The same whenever the run is resumed."""
        return hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]


class Logger(Protocol):
    """Takes figures by name, at an update counted from 0."""

    def log(self, update: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's `tensorboard/`."""

    def __init__(self, run: RunOf) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run wrote past its last checkpoint.
        folder = str(run.folder / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=run.resume_from or None)

    def log(self, update: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        self._writer.close()


class Tracked:
    """A tracker with the interface of Weights & Biases, which trackio has, too."""

    def __init__(self, run: RunOf, package: str, **options: Any) -> None:
        if importlib.util.find_spec(package) is None:
            raise OptionError(f"logger {package!r} is not installed: pip install {package}")
        tracker: Any = importlib.import_module(package)
        shown = {"project": PROJECT, "name": run.folder.name, "config": dict(run.config)}
        self._run: Any = tracker.init(**shown, resume="allow", **options)

    def log(self, update: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=update)

    def close(self) -> None:
        self._run.finish()


def _wandb(run: RunOf) -> Logger:
    return Tracked(run, "wandb", id=run.id, dir=str(run.folder))


def _trackio(run: RunOf) -> Logger:
    return Tracked(run, "trackio")


LOGGERS: Registry[Logger] = Registry("logger", "ovd.loggers")
"""Builders are given a RunOf."""
LOGGERS.register("tensorboard", TensorBoard)
LOGGERS.register("wandb", _wandb)
LOGGERS.register("trackio", _trackio)


class Loggers:
    """All that were chosen. Raises OptionError for a name that none has."""

    def __init__(self, names: Sequence[str], run: RunOf) -> None:
        choices = [LOGGERS.choose(name) for name in names]
        self._all = [choice.build(run) for choice in choices]

    def log(self, update: int, figures: Mapping[str, float]) -> None:
        for each in self._all:
            each.log(update, figures)

    def close(self) -> None:
        for each in self._all:
            each.close()
