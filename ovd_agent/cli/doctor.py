"""Say what this machine has, and what is missing or does not fit: `ovd doctor`.

The exit status is 1 if something that every run needs is missing. `ovd train --dry-run` says
whether a run's memory fits.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Literal

import torch
import tyro
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from ovd_agent.models import WHEELS, compute_dtype
from ovd_agent.runs.forecast import available
from ovd_envs.cache import cache_folder

NEEDED = ("torch", "transformers", "gymnasium", "accelerate", "peft")
USED_FOR = {
    "vllm": "--policy vllm, ovd serve-model: make setup-vllm",
    "faiss-cpu": "dense indexes: pip install 'ovd[index]'",
    "sentence-transformers": "encoders of dense indexes: pip install 'ovd[index]'",
    "datasets": "sets from the Hub: pip install 'ovd[index]'",
    "fastapi": "ovd index serve: pip install 'ovd[serve]'",
    "httpx": "teachers and indexes on servers: pip install 'ovd[teacher]'",
    "trl": "--engine trl: pip install 'ovd[trl]'",
    "verl": "--engine verl: pip install 'ovd[verl]', in another environment",
}
"""Optional packages, and what is not there without them."""


@dataclass(frozen=True)
class Options:
    """Look at this machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. "missing" is what every run needs, "note" what some do."""

    name: str
    found: str
    state: Literal["ok", "note", "missing"] = "ok"
    hint: str = ""


def main(arguments: Sequence[str]) -> int:
    tyro.cli(Options, args=list(arguments), description=__doc__)
    findings = [*device(), *packages(), *folders()]
    table = Table("", "found", "")
    styles = {"ok": "", "note": "yellow", "missing": "red"}
    for each in findings:
        table.add_row(each.name, each.found, each.hint, style=styles[each.state])
    Console().print(table)
    missing = [each.name for each in findings if each.state == "missing"]
    print(f"missing of what every run needs: {', '.join(missing) or 'nothing'}")
    return int(bool(missing))


def device() -> list[Finding]:
    cuda = torch.cuda.is_available()
    place = torch.device("cuda" if cuda else "cpu")
    dtype = str(compute_dtype(place)).removeprefix("torch.")
    free = f"{available(place) / 2**30:.1f} GiB"
    findings = [Finding("Python", sys.version.split()[0])]
    if cuda:
        name = torch.cuda.get_device_name(place)
        count = torch.cuda.device_count()
        hint = f"one of {count} is used: CUDA_VISIBLE_DEVICES chooses" if count > 1 else ""
        findings.append(Finding("device", f"{name}, CUDA {torch.version.cuda}", "ok", hint))
    elif torch.version.cuda:
        hint = "this torch is built for CUDA but finds no GPU: look at nvidia-smi"
        findings.append(Finding("device", f"{torch.get_num_threads()} CPU threads", "note", hint))
    else:
        hint = "this torch is built for CPUs"
        findings.append(Finding("device", f"{torch.get_num_threads()} CPU threads", "ok", hint))
    slow = "" if dtype == "bfloat16" else "no fast bfloat16 here: everything is computed in float32"
    return [*findings, Finding("memory", f"{free} free"), Finding("precision", dtype, "ok", slow)]


def packages() -> list[Finding]:
    findings = [_package("ovd", "missing")]
    findings += [_package(name, "missing", "pip install 'ovd[agent]'") for name in NEEDED]
    findings += [_package(name, "note", f"for {used}") for name, used in USED_FOR.items()]
    return findings


def _package(name: str, absent: Literal["note", "missing"], hint: str = "") -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "not installed", absent, hint)
    if clash := conflicts(name):
        return Finding(name, found, "note", clash)
    return Finding(name, found)


def conflicts(name: str) -> str:
    """What an installed package requires that is here in another version; "" if nothing is. vLLM,
    say, is built for one version of torch."""
    for line in requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            return f"requires {requirement.name}{requirement.specifier}, which is not installed"
        if not requirement.specifier.contains(installed, prereleases=True):
            return f"requires {requirement.name}{requirement.specifier}, but {installed} is here"
    return ""


def folders() -> list[Finding]:
    cache = cache_folder()
    place: Any = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    low = "little for checkpoints of a large student" if free < 10 else ""
    found = Finding("disk", f"{free:.0f} GiB free", "note" if low else "ok", low)
    ready = [name for name, wheel in WHEELS.items() if _installed(wheel.packages)]
    students = Finding("students offline", ", ".join(ready))
    if not ready:
        students = Finding("students offline", "none", "note", WHEELS["smollm2"].command)
    return [found, Finding("cache", str(cache)), students]


def _installed(requirements: Sequence[str]) -> bool:
    try:
        return all(version(Requirement(each).name) for each in requirements)
    except PackageNotFoundError:
        return False
