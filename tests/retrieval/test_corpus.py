import gzip
import json

import pytest

from retrieval_index.corpus import (
    PassageStore,
    check_passages,
    read_corpus,
    write_passages,
)
from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError

GOOD = '{"id": "a", "title": "T", "text": "one"}'


def test_reads_plain_and_gzip_alike(tmp_path):
    lines = f'{GOOD}\n\n{{"id": 7, "text": "zwei ü"}}\n'
    (tmp_path / "c.jsonl").write_text(lines, encoding="utf-8")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(lines)
    expected = [Document("a", "T", "one"), Document("7", "", "zwei ü")]
    assert list(read_corpus(tmp_path / "c.jsonl")) == expected
    assert list(read_corpus(tmp_path / "c.jsonl.gz")) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no passages in it"),
        (b"\n \n", "no passages in it"),
        (GOOD.encode() + b"\n{broken\n", r"c\.jsonl:2: broken JSON"),
        (b"[" * 100_000, r"c\.jsonl:1: broken JSON"),
        (GOOD.encode() + b"\n[1]\n", r"c\.jsonl:2: expected a JSON object"),
        (b'{"title": "T", "text": "x"}', r'c\.jsonl:1: "id" is missing'),
        (b'{"id": "", "text": "x"}', r'c\.jsonl:1: "id" is missing'),
        (b'{"id": true, "text": "x"}', r'c\.jsonl:1: "id" is missing or not a non-empty string'),
        (b'{"id": "a", "title": 3, "text": "x"}', r'c\.jsonl:1: "title" is missing or not'),
        (b'{"id": "a", "text": "  "}', r'c\.jsonl:1: "text" is missing'),
        (f"{GOOD}\n\n{GOOD}".encode(), r"c\.jsonl:3: duplicate id 'a', first seen on line 1"),
        (b'{"id": "a", "text": "\xff"}', r"c\.jsonl:1: not UTF-8"),
    ],
)
def test_a_bad_corpus_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        list(read_corpus(tmp_path / "c.jsonl"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_cut_gzip_are_named(tmp_path):
    with pytest.raises(CorpusError, match=r"none\.jsonl: no such file"):
        list(read_corpus(tmp_path / "none.jsonl"))
    whole = gzip.compress(
        "\n".join(json.dumps({"id": str(i), "text": "x"}) for i in range(99)).encode()
    )
    for damaged in (whole[:-20], b"plain text", whole[:15] + b"\xff\xff\xff" + whole[18:]):
        (tmp_path / "cut.jsonl.gz").write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"not a whole gzip file|broken JSON|not UTF-8"):
            list(read_corpus(tmp_path / "cut.jsonl.gz"))


def test_reading_streams(tmp_path):
    (tmp_path / "c.jsonl").write_text(f"{GOOD}\nbroken")
    assert next(read_corpus(tmp_path / "c.jsonl")).id == "a"


def test_passages_from_a_program_are_checked_too():
    with pytest.raises(CorpusError, match="passage 1: duplicate id 'a'"):
        list(check_passages([Document("a", "", "x"), Document("a", "", "y")]))
    with pytest.raises(CorpusError, match="passage 0: has no id or no text"):
        list(check_passages([Document("a", "", " ")]))
    with pytest.raises(CorpusError, match="corpus is empty"):
        list(check_passages([]))


def test_the_store_gives_back_exactly_what_was_written(tmp_path):
    documents = [
        Document("a", "", "line\nbreak"),
        Document("ü", "Títle", 'quote " \u2028'),
        Document("c", "x", "lone \ud800 surrogate"),
    ]
    assert write_passages(documents, tmp_path) == 3
    store = PassageStore(tmp_path)
    assert len(store) == 3
    assert list(store) == documents
    assert store[1] == documents[1]


def test_an_encoder_reads_title_and_text():
    assert Document("a", "Title", "text").contents == "Title\ntext"
    assert Document("a", "", "text").contents == "text"
