"""Imports go one way: retrieval_index <- ovd_envs <- ovd_agent <- scripts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "retrieval_index": {"retrieval_index"},
    "ovd_envs": {"retrieval_index", "ovd_envs"},
    "ovd_agent": {"retrieval_index", "ovd_envs", "ovd_agent"},
}
OURS = {*ALLOWED, "scripts", "tests", "benchmarks"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_those_before_it(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & OURS <= ALLOWED[package], path


@pytest.mark.parametrize("package", ALLOWED)
def test_files_stay_short(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 400, path
