"""Imports go one way: retrieval_index <- ovd_envs <- ovd_agent <- scripts, and inside ovd_envs."""

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
ROOMS = (
    *("episode", "errors", "wording", "grammar", "spaces", "cache", "checks", "info", "render"),
    *("grading", "tasks", "llm", "search", "teachers", "options", "scenario", "scenarios"),
    *("registry", "env", "vector_env", "calibration", "integrations"),
)
"""Of ovd_envs: each imports only those before it, and itself."""
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
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


def rooms_imported(path: Path) -> set[str]:
    """Rooms of ovd_envs that a file imports when it is run, not only when it is type-checked."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [name.split(".") for name in found if name and name.startswith("ovd_envs")]
    return {parts[1] for parts in names if len(parts) > 1}


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_back_up_inside_ovd_envs(room: str) -> None:
    before = {*ROOMS[: ROOMS.index(room) + 1]}
    home = ROOT / "ovd_envs" / room
    for path in home.rglob("*.py") if home.is_dir() else [home.with_suffix(".py")]:
        assert rooms_imported(path) <= before, path


def test_every_room_is_listed() -> None:
    inside = (ROOT / "ovd_envs").iterdir()
    found = {path.stem for path in inside if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__pycache__"} == {*ROOMS}


FOLDERS = (*ALLOWED, "scripts", "examples")


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_and_functions_stay_short(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= LONGEST_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"
