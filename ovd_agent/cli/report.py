"""Write a run's report.html again: `ovd report runs/qa`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ovd_agent.report.run import write_report


@dataclass(frozen=True)
class Options:
    """A run's page: numbers, curves, and episodes before and after."""

    run: tyro.conf.Positional[Path]
    """The folder of a finished run."""


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    print(f"report: {write_report(options.run)}")
    return 0
