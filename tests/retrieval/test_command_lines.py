"""The scripts as a newcomer runs them: build, add and delete, verify; mistakes are one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval_index import PassageIndex
from retrieval_index.manifest import VECTORS_FILE

ROOT = Path(__file__).parents[2]


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    rows = [{"id": f"p{n}", "title": f"T{n}", "text": f"word{n} text. More."} for n in range(30)]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "new.jsonl").write_text('{"id": "n", "text": "zebra"}')
    done = script("build_index.py", "--corpus", folder / "c.jsonl", "--out", folder / "i")
    assert done.returncode == 0, done.stderr
    assert "30 passages" in done.stdout
    assert "Flat, exact" in done.stdout
    return folder


def test_add_delete_and_verify(built):
    index = ("--index", built / "i")
    done = script("update_index.py", *index, "--add", built / "new.jsonl", "--delete", "p1", "p2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "29 passages, is live" in done.stdout
    assert PassageIndex.open(built / "i").search(["zebra"], 1)[0][0].id == "n"
    assert "every file is whole" in script("update_index.py", *index, "--verify").stdout
    unknown = script("update_index.py", *index, "--delete", "p1")
    assert (unknown.returncode, unknown.stderr) == (2, "--delete: no passage has the id 'p1'\n")
    nothing = script("update_index.py", *index)
    assert (nothing.returncode, nothing.stderr[:13]) == (2, "nothing to do")
    generation = PassageIndex.open(built / "i").generation
    with (generation / VECTORS_FILE).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    damaged = script("update_index.py", *index, "--verify")
    assert damaged.returncode == 2
    assert "is damaged (sha256 differs)" in damaged.stderr


def test_mistakes_are_one_sentence(built):
    for arguments, message in (
        (("--corpus", built / "none.jsonl"), "none.jsonl: no such file; expected a file or a"),
        (("--corpus", built / "c.jsonl", "--index", "Nonsense"), "faiss knows no such index"),
        (("--corpus", built / "c.jsonl", "--index", "IVF99,Flat"), "99 lists needs at least as"),
        (("--corpus", built / "c.jsonl", "--chunk", "0"), "chunk=0: expected at least 1 word"),
        (("--corpus", built / "c.jsonl", "--encoder", "/none"), "no such folder; expected a saved"),
    ):
        done = script("build_index.py", *arguments, "--out", built / "other")
        assert done.returncode == 2, arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (built / "other").exists()
