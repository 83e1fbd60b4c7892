"""Wheel and source distribution hold all that a user needs, and work without the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ovd_envs", "ovd_agent", "retrieval_index")
USED = """
import sys, gymnasium, ovd_envs, retrieval_index
assert not {'torch', 'vllm', 'faiss', 'transformers'} & set(sys.modules)
assert ovd_envs.__file__.startswith(sys.argv[1]), ovd_envs.__file__
env = gymnasium.make('ovd/Math-v0')
env.reset(seed=0)
print(env.step('<answer>1</answer>')[4]['verbal_score'])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution, made from a copy of what git would hold."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*PACKAGES, "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    make = (
        "import os, sys\nfrom setuptools import build_meta\n"
        f"out = {str(out)!r}\nbuild_meta.build_sdist(out)\nbuild_meta.build_wheel(out)"
    )
    done = subprocess.run([sys.executable, "-c", make], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def files(folder: Path) -> set[str]:
    """Code and data of the packages in a checkout."""
    found = (path for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file())
    kept = {".py", ".toml", ".html", ".js", ".css", ".json", ".typed"}
    return {str(path.relative_to(folder)) for path in found if path.suffix in kept}


def test_both_hold_every_file_of_the_packages(built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        assert files(ROOT) == {n for n in archive.namelist() if n.startswith(PACKAGES)}
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert files(ROOT) <= inside


def test_it_works_from_the_wheel_alone(built, tmp_path):
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    used = subprocess.run(
        [sys.executable, "-c", USED, str(tmp_path)],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True},
    )
    assert used.returncode == 0, used.stderr
    assert 0 <= float(used.stdout) <= 9


@pytest.mark.several
def test_an_empty_environment_installs_and_uses_both(built, tmp_path):
    """With the packages that it depends on, as pip finds them."""
    for place, dist in enumerate(built):
        folder = tmp_path / str(place)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", str(dist)], check=True)
        used = subprocess.run(
            [folder / "bin/python", "-c", USED, str(folder)],
            **{"cwd": tmp_path, "capture_output": True, "text": True},
        )
        assert used.returncode == 0, used.stderr
        listed = subprocess.run([folder / "bin/ovd", "--help"], capture_output=True, text=True)
        assert "train a student" in listed.stdout


def test_there_is_one_version_and_the_changelog_knows_it():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
