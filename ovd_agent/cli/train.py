"""Train a student: `ovd train --env ovd/WebQA-v0 --algorithm ovd --out runs/qa`.

The same command resumes a run that was stopped. Options of a part follow its name:
`--algorithm.threshold 6`, `--env.hops 1 2 3`, `--teacher.concurrency 8`. `--preset NAME` (demo,
demo-math, paper) or a TOML file sets other defaults. `--help` shows the options of the parts that
are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.report.run import REPORT_FILE
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.presets import read_preset, take_preset
from ovd_agent.runs.trainer import Trainer


def main(arguments: Sequence[str]) -> int:
    preset, rest = take_preset(arguments)
    config = parse(TrainConfig, rest, __doc__ or "", read_preset(preset) if preset else None)
    summary = Trainer(config).run()
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
