"""Compare algorithms, or options, over paired seeds: `ovd compare --plan plan.toml`.

A plan names a baseline, seeds, what all arms have in common, and the arms, by the options of
`ovd train`; the `name` of a part stands beside its options:

    baseline = "sft"
    seeds = [0, 1, 2]

    [common]
    updates = 8
    env.world_seed = 3

    [arms.sft]
    algorithm = "sft"

    [arms.ovd]
    algorithm.name = "ovd"
    algorithm.advantage.baseline = "student"

Each arm is trained with each seed by `ovd train`, which resumes; what is finished is read.
An arm may start from another: `student = "{out}/sft-{seed}"`, where `{out}` is this folder.
Writes record.json, results.csv, comparison.html and comparison.png.

    ovd compare --show benchmarks/results/plenty.csv --baseline sft

prints the table of a record again.

    ovd compare --run runs/mine --against published

compares an evaluation (`ovd evaluate --benchmark ovd/fiction-v1 --out runs/mine`) with published
ones, question by question, and prints a row for a table in Markdown.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import tyro
from rich.console import Console
from rich.table import Table

from ovd_agent.learner.checkpoint import OPTIMIZER_FILE
from ovd_agent.report.comparison import write_page
from ovd_agent.report.picture import write_picture
from ovd_agent.runs.arms import read_arm, read_record, write_csv, write_record
from ovd_agent.runs.comparison import Arms, Difference, Run, differences
from ovd_agent.runs.published import PUBLISHED, Record, paired, published
from ovd_agent.runs.published import read_record as read_record_of
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class Options:
    """Train arms and compare."""

    plan: Path | None = None
    """A TOML file."""
    out: Path = Path("runs/compare")
    only_read: bool = False
    """Train nothing: compare the runs that are finished."""
    arms: tuple[str, ...] = ()
    """Only these arms of the plan, the baseline, and those that they start from. The others can be
    trained later."""
    baseline: str | None = None
    """The arm that the others are compared with, where it is not the plan's."""
    show: Path | None = None
    """Train nothing: print the table of this record.json or results.csv."""
    run: Path | None = None
    """Train nothing: compare this evaluation (a folder with result.json, or the file)."""
    against: str = PUBLISHED
    """With what: "published", or another evaluation."""


@dataclass(frozen=True)
class Plan:
    baseline: str
    seeds: list[int]
    common: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]


def main(arguments: Sequence[str]) -> int:
    options = tyro.cli(Options, args=list(arguments), description=__doc__)
    if options.show is not None:
        arms, baseline = read_record(options.show)
        baseline = options.baseline or baseline or next(iter(arms))
        show(arms, differences(arms, baseline), baseline)
        return 0
    if options.run is not None:
        show_pairs(read_record_of(options.run), options.against)
        return 0
    if options.plan is None:
        raise OptionError("nothing to compare: give --plan PLAN.toml, --show RECORD, or --run RUN")
    plan = read_plan(options.plan, options.baseline)
    if options.arms:
        plan = only(plan, options.arms)
    for seed in plan.seeds:  # seed by seed, so that a comparison broken off is a paired one
        for arm in plan.arms:
            if not options.only_read:
                train(plan, arm, seed, options.out / f"{arm}-{seed}")
    arms = finished(plan, options.out)
    found = differences(arms, plan.baseline)
    write_record(options.out / "record.json", arms, plan.baseline, options.plan.stem)
    write_csv(options.out / "results.csv", arms)
    title = f"Comparison {options.plan.stem}"
    write_page(options.out / "comparison.html", title, arms, found, plan.baseline)
    write_picture(options.out / "comparison.png", title, arms, found, plan.baseline)
    show(arms, found, plan.baseline)
    print(f"report: {options.out / 'comparison.html'}")
    return 0


def read_plan(path: Path, baseline: str | None = None) -> Plan:
    """Raises OptionError for a plan that cannot be read or lacks something."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise OptionError(f"plan {path}: no such file") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"plan {path}: not TOML ({error})") from None
    unknown = set(data) - {"baseline", "seeds", "common", "arms"}
    arms, seeds = data.get("arms", {}), data.get("seeds", [])
    if unknown:
        raise OptionError(f"plan {path}: {sorted(unknown)[0]!r} is not known")
    baseline = baseline or data.get("baseline")
    if baseline is None or baseline not in arms or len(arms) < 2:
        raise OptionError(f"plan {path}: expected two [arms.NAME] and `baseline` to be one of them")
    if not seeds or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise OptionError(f"plan {path}: seeds={seeds!r}: expected different integers")
    return Plan(baseline, seeds, data.get("common", {}), arms)


def only(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with these arms, its baseline, and the arms that they start from.

    Raises OptionError for a name that is no arm's.
    """
    for name in names:
        if name not in plan.arms:
            known = ", ".join(plan.arms)
            raise OptionError(f"arms: {name!r} is no arm of the plan: expected some of {known}")
    kept: set[str] = set()
    waiting = [*names, plan.baseline]
    while waiting:
        kept.add(arm := waiting.pop())
        start = str(plan.arms[arm].get("student", ""))
        waiting += [other for other in plan.arms if f"{{out}}/{other}-{{seed}}" == start]
    return replace(plan, arms={name: arm for name, arm in plan.arms.items() if name in kept})


def as_arguments(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Options of a plan as those of a command line; the `name` of a part is the option itself."""
    found: list[str] = []
    for key, value in options.items():
        name = f"{prefix}{key.replace('_', '-')}"
        if key == "name" and prefix:
            found += [f"--{prefix.removesuffix('.')}", str(value)]
        elif isinstance(value, Mapping):
            found += as_arguments(cast("Mapping[str, Any]", value), f"{name}.")
        elif isinstance(value, bool):
            head, _, last = name.rpartition(".")
            found.append(f"--{name}" if value else f"--{head}{'.' if head else ''}no-{last}")
        elif isinstance(value, list):
            found += [f"--{name}", *map(str, cast("list[Any]", value))]
        else:
            found += [f"--{name}", str(value)]
    return found


def train(plan: Plan, arm: str, seed: int, out: Path) -> None:
    if (out / "summary.json").exists():
        return
    command = [sys.executable, "-m", "ovd_agent.cli.main", "train"]
    command += ["--out", str(out), "--seed", str(seed)]
    named = as_arguments(plan.common) + as_arguments(plan.arms[arm])
    places = {"{seed}": str(seed), "{out}": str(out.parent)}
    for place, value in places.items():
        named = [word.replace(place, value) for word in named]
    command += named
    Console(stderr=True).print(f"{arm}, seed {seed}")
    code = subprocess.run(command, check=False).returncode
    if code in (130, -signal.SIGINT):  # told to it, or before it could listen
        raise KeyboardInterrupt
    if code:
        raise OptionError(f"arm {arm!r}, seed {seed}: {' '.join(command[1:])} ended with {code}")
    # A finished arm is read or started from, never resumed; its optimiser is most of its size.
    for state in (out / "checkpoints").glob(f"*/{OPTIMIZER_FILE}"):
        state.unlink()


def finished(plan: Plan, out: Path) -> dict[str, list[Run]]:
    """The runs of the seeds that every arm has finished. Raises OptionError if there is none."""
    seeds = [
        seed
        for seed in plan.seeds
        if all((out / f"{arm}-{seed}/summary.json").exists() for arm in plan.arms)
    ]
    if not seeds:
        raise OptionError(f"{out}: no seed is finished in every arm")
    return {arm: [read_arm(out / f"{arm}-{seed}") for seed in seeds] for arm in plan.arms}


def show(arms: Arms, found: Mapping[str, Difference], baseline: str) -> None:
    """The tables of a comparison, on the terminal."""
    console = Console()
    table = Table("arm", "EM, by seed", "mean", "collapsed", f"minus {baseline}", "verdict")
    for name, runs in arms.items():
        each = " ".join(f"{run.em:.2f}" for run in runs)
        mean = sum(run.em for run in runs) / len(runs)
        cells = [name, each, f"{mean:.3f}", f"{sum(run.collapsed for run in runs)} of {len(runs)}"]
        if other := found.get(name):
            interval = f" ({other.low:+.3f} to {other.high:+.3f})" if other.seeds > 1 else ""
            cells += [f"{other.mean:+.3f}{interval}", other.verdict]
        table.add_row(*cells)
    console.print(table)
    if all(run.grades for runs in arms.values() for run in runs):
        console.print(_by_hops(arms, found, baseline))


def show_pairs(mine: Record, against: str) -> None:
    """Paired differences of an evaluation to others on the same tasks."""
    if against == PUBLISHED:
        others = [record for record in published() if record.tasks == mine.tasks]
        if not others:
            benchmarks = ", ".join(sorted({record.benchmark for record in published()}))
            raise OptionError(
                f"{mine.name}: nothing is published on these {len(mine.grades)} tasks; what is"
                f" published is on {benchmarks}, with the default --count"
            )
    else:
        others = [read_record_of(Path(against))]
    table = Table("compared with", "EM", "mine", "difference", "95% over questions")
    for other in (paired(mine, each) for each in others):
        table.add_row(
            other.other.name,
            f"{other.other.em:.3f}",
            f"{mine.em:.3f}",
            f"{other.mean:+.3f}",
            f"{other.low:+.3f} to {other.high:+.3f}",
        )
    Console().print(table)
    row = (mine.name, mine.benchmark, str(len(mine.grades)), str(mine.samples), f"{mine.em:.3f}")
    print("| run | benchmark | tasks | samples | EM |\n| --- | --- | --- | --- | --- |")
    print(f"| {' | '.join(row)} |")


def _by_hops(arms: Arms, found: Mapping[str, Difference], baseline: str) -> Table:
    hops = list(next(iter(arms.values()))[0].em_by_hops)
    heads = [f"EM, {count} hop{'s' * (count != 1)}" for count in hops]
    table = Table("arm", *heads, f"minus {baseline}, over questions")
    for name, runs in arms.items():
        means = [sum(run.em_by_hops[count] for run in runs) / len(runs) for count in hops]
        cells = [name, *(f"{mean:.3f}" for mean in means)]
        if (other := found.get(name)) and other.questions is not None:
            cells.append("{:+.3f} to {:+.3f}".format(*other.questions))
        table.add_row(*cells)
    return table
