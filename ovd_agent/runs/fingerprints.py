"""What a run reads from files besides its options, so that a resumed run notices a change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovd_agent.models import student_path
from ovd_envs.errors import OptionError

_PART = 2**20
"""Bytes that are read at either end of a large file."""


def fingerprints(student: str, files: Mapping[str, Any]) -> dict[str, str]:
    """By option: of the student's folder and of files of tasks, where they are files."""
    found = {
        name: _of_file(Path(value))
        for name, value in files.items()
        if isinstance(value, str | Path) and Path(value).is_file()
    }
    if Path(student).is_dir():
        found["student"] = _of_folder(Path(student_path(student)))
    return found


def check_unchanged(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise OptionError naming the first option whose files are not those of the run's start."""
    for name, mark in now.items():
        if before.get(name, mark) != mark:
            raise OptionError(
                f"{name}: its files have changed since {folder} was started; put them back to"
                " resume, or start anew with another --out"
            )


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _of_folder(folder: Path) -> str:
    """Of every file its name, its size and its ends; reading all of a large model would take
    longer than loading it."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PART))
            file.seek(max(0, size - _PART))
            digest.update(file.read(_PART))
    return digest.hexdigest()[:16]
