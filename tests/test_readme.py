"""The README's commands and blocks run in the order printed, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from ovd_agent.cli import main
from ovd_agent.cli.parse import parse
from ovd_agent.runs.config import TrainConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
FENCES = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
SMALL = [
    *("--student", "tiny", "--updates", "1", "--tasks-per-update", "2", "--eval-count", "3"),
    *("--rollout.max-length", "900", "--rollout.max-new-tokens", "4"),
]
"""What makes a training a matter of seconds."""
ELSEWHERE = ("make ", "tensorboard ", ".venv-vllm/", "ovd view ")
"""Commands that other tests run, or that need what is not here."""
NEEDS_A_SERVER = "http://127.0.0.1"


def commands(block: str) -> list[list[str]]:
    """The words of each line, without comments."""
    lines = (line.partition("  #")[0].strip() for line in block.splitlines())
    return [shlex.split(line) for line in lines if line]


def run_command(words: list[str], folder: Path) -> None:
    program, *rest = words
    if program == "python":
        assert (ROOT / rest[0]).is_file()
        program, rest = "ovd", ["index", "build", *rest[1:]]  # which the script is
    assert program == "ovd", words
    if any(NEEDS_A_SERVER in word for word in rest):
        if rest[0] == "train":
            parse(TrainConfig, rest[1:], "")
        return
    if rest[:2] == ["index", "serve"]:
        return served(rest, folder)
    if "--help" in rest:
        with pytest.raises(SystemExit) as ended:
            main.main(rest)
        assert ended.value.code == 0
        return
    if rest[0] == "train":
        rest += SMALL
    if rest[0] == "evaluate":
        rest += ["--count", "3"]
    if rest[0] == "play":
        rest += ["--episodes", "1"]
    assert main.main(rest) == 0, words


def served(words: list[str], folder: Path) -> None:
    """The server comes up, and ends when it is told to."""
    command = [sys.executable, "-m", "ovd_agent.cli.main", *words, "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "search page" in process.stdout.readline()
    time.sleep(0.5)
    process.terminate()
    assert process.wait(180) is not None  # it may be loading its encoder


def small_plan(path: Path) -> None:
    """The plan of the examples with one seed, and training as small as elsewhere."""
    plan = tomllib.loads(path.read_text())
    assert plan["seeds"] == [0, 1, 2]
    text = path.read_text().replace("[0, 1, 2]", "[0]").replace("updates = 8", "updates = 1")
    options = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    del options["--updates"]
    names = {name.removeprefix("--").replace("-", "_"): v for name, v in options.items()}
    lines = [f"{n} = {v if v.isdigit() else json.dumps(v)}" for n, v in names.items()]
    path.write_text(text.replace("[common]", "\n".join(["[common]", *lines])))


def test_everything_runs_in_the_order_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("examples", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    small_plan(tmp_path / "examples" / "plan.toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = 0
    for language, block in FENCES:
        if language == "python":
            run_block(block)
            ran += 1
            continue
        for words in commands(block):
            if not " ".join(words).startswith(ELSEWHERE):
                run_command(words, tmp_path)
                ran += 1
    assert ran >= 15
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert {"OVD", "SFT", "BESTOFN"} == {
        str(each["algorithm"]).upper().split(":")[-1] for each in summaries
    }
    assert (tmp_path / "runs/qa/report.html").exists()
    # And what is said between the blocks.
    assert 'gymnasium.make("ovd_envs:ovd/WebQA-v0", search="my_index", tasks="exam' in README
    env = gymnasium.make(
        "ovd_envs:ovd/WebQA-v0", search="my_index", tasks="examples/questions.jsonl"
    )
    env.reset(seed=0)


def run_block(block: str) -> None:
    """A block in a namespace of its own; a training is made small, an algorithm is trained with."""
    names: dict[str, Any] = {"__name__": "readme"}
    if "Trainer(config)" in block:
        head, tail = block.split("summary =")
        block = (
            f"{head}from dataclasses import replace\nfrom ovd_agent import RolloutConfig\n"
            "config = replace(config, student='tiny', updates=1, eval_count=3, tasks_per_update=2,"
            " rollout=RolloutConfig(max_new_tokens=4, max_length=900))\n"
            f"summary ={tail}"
        )
    if "class BestOfN" in block:
        Path("mine.py").write_text(block)
        assert "`ovd train --algorithm mine:BestOfN --algorithm.samples 4`" in README
        words = ["--algorithm", "mine:BestOfN", "--algorithm.samples", "4", "--out", "runs/mine"]
        assert main.main(["train", *words, *SMALL]) == 0
        return
    exec(compile(block, "README.md", "exec"), names)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    lines = (line.lstrip("# ") for line in page.read_text("utf-8").splitlines() if line[:1] == "#")
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def test_anchors_are_headings() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(
            r"\]\((?!http)([^)#]*\.md)?#([^)]+)\)", page.read_text("utf-8")
        ):
            where = (page.parent / target) if target else page
            assert anchor in anchors(where), f"{page.name}: {target}#{anchor}"


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
