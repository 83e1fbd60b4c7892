"""Train a student: `ovd train --env ovd/WebQA-v0 --algorithm ovd --out runs/qa`.

The same command resumes a run that was stopped. Options of a part follow its name:
`--algorithm.threshold 6`, `--env.hops 1 2 3`, `--teacher.concurrency 8`. `--preset NAME` (demo,
demo-math, paper) or a TOML file sets other defaults. `--help` shows the options of the parts that
are chosen. `--dry-run` says how much memory the run takes, and what helps where it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.engines import ENGINES
from ovd_agent.report.run import REPORT_FILE
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.forecast import Forecast, forecast
from ovd_agent.runs.presets import read_preset, take_preset

DRY_RUN = "--dry-run"


def main(arguments: Sequence[str]) -> int:
    preset, rest = take_preset(arguments)
    dry = DRY_RUN in rest
    rest = [word for word in rest if word != DRY_RUN]
    config = parse(TrainConfig, rest, __doc__ or "", read_preset(preset) if preset else None)
    if dry:
        return show_forecast(forecast(config))
    summary = ENGINES.choose(config.engine).build(config).run()
    if not summary:  # of a process that only helps
        return 0
    before, after = summary["before"], summary["after"]
    table = Table(title=f"{summary['env']}: {before['count']} held-out tasks, greedy")
    for column in ("steps", "EM before", "EM after"):
        table.add_column(column, justify="right")
    for name, row in before["per_hop"].items():
        table.add_row(name, f"{row['em']:.2f}", f"{after['per_hop'][name]['em']:.2f}")
    table.add_row("all", f"{before['em']:.2f}", f"{after['em']:.2f}", style="bold")
    console = Console()
    console.print(table)
    accepted = [f"{share:.2f}" for share in summary["acceptance"] if share is not None]
    if accepted:
        console.print(f"accepted, update by update: {' '.join(accepted)}", highlight=False)
    print(f"EM {summary['em_before']:.3f} -> {summary['em_after']:.3f}")
    if summary["untrained_updates"]:
        print(f"nothing was trained in {summary['untrained_updates']} of the updates")
    print(f"{summary['updates']} updates in {summary['seconds'] / 60:.1f} minutes")
    print(f"report: {config.out / REPORT_FILE}")
    return 0


def show_forecast(found: Forecast) -> int:
    """Print where the memory goes; the exit status is 1 if it does not fit."""
    table = Table("part", "MiB", title=f"memory of the run's own process, on {found.device}")
    table.columns[1].justify = "right"
    for name, size in {**found.parts, "libraries": found.libraries}.items():
        if size:
            table.add_row(name, f"{size / 2**20:,.0f}")
    table.add_row("together", f"{found.total / 2**20:,.0f}", style="bold")
    Console().print(table)
    print(found.advice())
    return int(not found.fits)
