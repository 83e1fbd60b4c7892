"""The pages of docs/: the site builds without a warning, code compiles, commands have the options
that they use, and the five minutes of docs/start.md are run."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_server import Server

from ovd_agent.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMANDS = {" ".join(name.split()) for name in main.COMMANDS}
ELSEWHERE = {"gem", "trl", "verifiers"}
"""Packages of other suites, which may not be here."""


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text("utf-8")) if kind == language]


def commands(page: Path) -> list[list[str]]:
    """The words of each `ovd` command, without comments and line ends that go on."""
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = (line.partition("  #")[0].strip() for line in joined.splitlines())
    found = (shlex.split(line) for line in lines if "ovd " in line and not line.startswith("#"))
    return [words[words.index("ovd") + 1 :] for words in found if "ovd" in words]


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason='pip install -e ".[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "api" / "ovd_envs" / "index.html").read_text("utf-8")
    assert 'id="ovd_envs.scenario.Scenario.advance"' in api
    pages = [path.read_text("utf-8") for path in tmp_path.rglob("*.html")]
    assert not any('src="http' in page or 'arithmatex">\\(' in page for page in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_compiles_and_imports_what_there_is(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module.partition(".")[0] in ELSEWHERE:
                continue
            module = pytest.importorskip(node.module) if "integrations" in node.module else None
            module = module or importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


@pytest.mark.parametrize("name", ["index.md", "environments.md"])
def test_the_first_block_of_a_page_runs(name, capsys):
    block = blocks(DOCS / name, "python")[0]
    exec(compile(block, name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_commands_are_there(page):
    for words in commands(page):
        name = words[0] if words[0] in COMMANDS else " ".join(words[:2])
        assert name in COMMANDS, words


SMALL = [
    *("--student", "tiny", "--updates", "1", "--tasks-per-update", "2", "--eval-count", "2"),
    *("--rollout.max-length", "1500", "--rollout.max-new-tokens", "4", "--algorithm.samples", "1"),
]


def test_the_five_minutes_run(tmp_path, monkeypatch):
    """With a random student, and a teacher that gives every step a 7."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    teacher = Server(lambda number, body: "7")
    statuses = {}
    for words in commands(DOCS / "start.md"):
        words = [word.replace("http://127.0.0.1:8002/v1", teacher.url) for word in words]
        if words[0] == "train":
            words += SMALL
        if words[0] == "evaluate":
            words += ["--count", "2"]
        if words[0] == "play":
            words += ["--episodes", "1"]
        if words[0] != "view":
            statuses[" ".join(words[:2]) if words[0] == "index" else words[0]] = main.main(words)
    assert statuses.pop("calibrate") == 1  # which says that such a teacher cannot be trusted
    assert set(statuses) == {"doctor", "index build", "index evaluate", "train", "evaluate", "play"}
    assert not any(statuses.values())
    [block] = blocks(DOCS / "start.md", "python")
    exec(compile(block.replace("AutoModelForCausalLM.from_pretrained", "str"), "start.md", "exec"))
