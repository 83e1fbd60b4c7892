"""Builds that are killed: whatever the moment, the next call finishes the very same index."""

import json
import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from killing import killed_while

from retrieval_index import build_index, build_state, stages
from retrieval_index.encoders import HashingEncoder
from retrieval_index.errors import IndexExistsError
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import live_generation

ROWS = 90  # of the corpus in conftest.py
SEEDED = random.Random(0)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(stages, "BATCH", 5)
    monkeypatch.setattr(stages, "_SHARD", 20)


class Counting(HashingEncoder):
    """A hashing encoder that counts what it encodes, over all its copies."""

    encoded = 0

    def encode_passages(self, texts):
        Counting.encoded += len(texts)
        return super().encode_passages(texts)


def killed_at(moment, corpus, out):
    return killed_while(lambda: build_index(corpus, out, progress=False), moment)


def content(out):
    """Every file of the index by name; of the manifest all but its date."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for name in list(files):
        if name.endswith("manifest.json"):
            files[name] = json.dumps({**json.loads(files[name]), "created": ""}).encode()
    return files


@pytest.mark.parametrize(
    "moments", [range(2, 200, 6), pytest.param(range(1, 200), marks=pytest.mark.faults)]
)
def test_killed_at_any_moment(corpus, tmp_path, moments):
    build_index(corpus, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    for moment in moments:
        out = tmp_path / f"out{moment}"
        if not killed_at(moment, corpus, out):
            break
        if live_generation(out) is not None:  # never half an index
            assert len(PassageIndex.open(out, verify=True)) == ROWS
        build_index(corpus, out)
        assert content(out) == expected, moment
    assert moment > 30


def test_killed_again_and_again(corpus, tmp_path):
    build_index(corpus, tmp_path / "whole")
    out = tmp_path / "out"
    kills = 0
    while killed_at(SEEDED.randrange(8, 40), corpus, out):
        kills += 1
        assert kills < 100  # it gets somewhere each time
    assert kills > 1
    assert content(out) == content(tmp_path / "whole")


def test_at_most_one_shard_is_encoded_again(corpus, tmp_path, monkeypatch):
    check = stages._check_vectors
    calls = 0

    def interrupt(*arguments):
        nonlocal calls
        calls += 1
        if calls == 11:  # 50 passages are encoded, 40 of them checkpointed
            raise KeyboardInterrupt
        check(*arguments)

    monkeypatch.setattr(stages, "HashingEncoder", Counting)
    monkeypatch.setattr(stages, "_check_vectors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "out", Counting())
    Counting.encoded = 0
    index = build_index(corpus, tmp_path / "out", Counting())
    assert Counting.encoded == ROWS - 40
    assert index.search(["word3 text 12"], 1)[0][0].id == "p12"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["CURRENT", "gen-000001"]


def unfinished(corpus, out):
    for moment in range(20, 60):  # somewhere in the encoding
        assert killed_at(moment, corpus, out)
        if (out / build_state.STATE).exists():
            return json.loads((out / build_state.STATE).read_text())
    raise AssertionError("no build was left unfinished")


def test_another_corpus_encoder_or_option_is_refused_by_name(corpus, tmp_path):
    out = tmp_path / "out"
    state = unfinished(corpus, out)
    with pytest.raises(
        IndexExistsError, match=r"unfinished build with words='folded', not None.*--re"
    ):
        build_index(corpus, out, bm25=False)
    with pytest.raises(IndexExistsError, match=r"unfinished build with encoder_fingerprint="):
        build_index(corpus, out, HashingEncoder(256))
    corpus.write_text(corpus.read_text() + '{"id": "new", "text": "x"}\n')
    with pytest.raises(IndexExistsError, match=r"unfinished build with corpus_sha256="):
        build_index(corpus, out)
    assert json.loads((out / build_state.STATE).read_text()) == state  # nothing was lost by asking
    assert len(build_index(corpus, out, restart=True)) == ROWS + 1


def hold(target, ready, leave):
    with build_state.building(Path(target)):
        ready.set()
        leave.wait(30)


def test_two_builds_at_once_are_refused(corpus, tmp_path):
    context = get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path / "out"), ready, leave))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(IndexExistsError, match="is being built by another process"):
        build_index(corpus, tmp_path / "out")
    os.kill(holder.pid, signal.SIGKILL)  # and a lock whose holder is dead is free
    holder.join()
    time.sleep(0.05)
    assert len(build_index(corpus, tmp_path / "out")) == ROWS
