"""What every benchmark writes down: where it ran, with which versions, and its results."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrieval_index.files import write_atomically

RESULTS = Path(__file__).parent / "results"
CPU_INFO = Path("/proc/cpuinfo")


def surroundings(packages: Sequence[str]) -> dict[str, Any]:
    """The machine, the threads allowed to it, and the versions of Python and of `packages`."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return {
        "machine": f"{platform.machine()}, {processor}, {os.cpu_count()} CPUs",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in packages},
    }


STOPPED = "stopped.json"
"""In the folder of a benchmark's files: what a run measured that was stopped."""


def begun(path: Path) -> dict[str, Any]:
    """What a run that was stopped has measured; nothing yet if there was none."""
    return json.loads(path.read_text()) if path.exists() else {"results": {}}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=2) + "\n")
