"""The README's Python blocks run as written, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TRAINING = "Trainer(config)"


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [block for block in BLOCKS if TRAINING not in block])
def test_an_example_runs_as_written(block: str, tmp_path: Path) -> None:
    run(block, tmp_path)


def test_the_training_example_runs_with_a_tiny_student_and_your_own_algorithm(
    tmp_path: Path,
) -> None:
    (training,) = [block for block in BLOCKS if TRAINING in block]
    (algorithm,) = [block for block in BLOCKS if "class BestOfN" in block]
    small = """
from dataclasses import replace
from ovd_agent import RolloutConfig
rollout = RolloutConfig(max_new_tokens=4, max_length=900, slots=8)
config = replace(
    config, student="tiny", updates=1, eval_count=2, tasks_per_update=2, rollout=rollout
)
"""
    head, tail = training.split("summary =")
    assert "->" in run(f"{head}{small}summary ={tail}", tmp_path)
    own = "config = replace(config, out=Path('own'), algorithm=BestOfN(2))\n"
    own = f"{algorithm}{head}{small}{own}"
    assert "1" in run(f"{own}print(Trainer(config).run()['updates'])", tmp_path)


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_scripts_that_are_named_exist() -> None:
    for name in re.findall(r"python (scripts/\w+\.py)", README):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert f"\n{target}:" in makefile, target
