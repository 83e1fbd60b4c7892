import gzip
import importlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_index import build_index, stages
from retrieval_index.corpus import (
    check_corpus,
    check_passages,
    corpus_fingerprint,
    corpus_name,
    read_corpus,
    split_passages,
)
from retrieval_index.documents import Document
from retrieval_index.errors import CorpusError
from retrieval_index.passages import PassageStore, write_passages

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
        (GOOD.encode() + b"\n{broken\n", r"c\.jsonl, line 2: broken JSON"),
        (b"[" * 100_000, r"c\.jsonl, line 1: broken JSON"),
        (GOOD.encode() + b"\n[1]\n", r"c\.jsonl, line 2: expected an object"),
        (b'{"title": "T", "text": "x"}', r'c\.jsonl, line 1: "id" is missing'),
        (b'{"id": "", "text": "x"}', r'c\.jsonl, line 1: "id" is missing'),
        (
            b'{"id": true, "text": "x"}',
            r'c\.jsonl, line 1: "id" is missing or not a non-empty',
        ),
        (b'{"id": "a", "title": [], "text": "x"}', r'line 1: "title" is \[\]: expected a string'),
        (b'{"id": "a", "text": "  "}', r'c\.jsonl, line 1: "text" is missing'),
        (b'{"id": "a", "text": "\xff"}', r"c\.jsonl, line 1: not UTF-8"),
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
        with pytest.raises(CorpusError, match=r"damaged gzip|broken JSON|not UTF-8"):
            list(read_corpus(tmp_path / "cut.jsonl.gz"))


def test_reading_streams(tmp_path):
    (tmp_path / "c.jsonl").write_text(f"{GOOD}\nbroken")
    assert next(read_corpus(tmp_path / "c.jsonl")).id == "a"


def test_passages_from_a_program_are_checked_too():
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


ROWS = [
    {"id": "a", "title": "T", "text": "one"},
    {"id": "7", "title": "", "text": "zwei ü"},
    {"id": "c", "title": "U", "text": "three"},
]
DOCUMENTS = [Document(**row) for row in ROWS]


def write_parquet(path, rows=ROWS):
    pyarrow = pytest.importorskip("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)


def write_arrow(path, opened):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(ROWS)
    ipc = importlib.import_module("pyarrow.ipc")
    with getattr(ipc, opened)(str(path), table.schema) as writer:
        for start in range(3):
            writer.write_table(table.slice(start, 1))


def test_parquet_and_both_kinds_of_arrow_are_read(tmp_path):
    write_parquet(tmp_path / "c.parquet")
    write_arrow(tmp_path / "file.arrow", "new_file")
    write_arrow(tmp_path / "stream.arrow", "new_stream")
    for name in ("c.parquet", "file.arrow", "stream.arrow"):
        assert list(read_corpus(tmp_path / name)) == DOCUMENTS, name


def test_a_saved_dataset_is_read_from_its_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert list(read_corpus(tmp_path / "saved")) == DOCUMENTS


def test_a_folder_of_files_is_read_in_order_of_their_names(tmp_path):
    write_parquet(tmp_path / "b.parquet", ROWS[1:])
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]))
    (tmp_path / "README.md").write_text("not a corpus")
    assert list(read_corpus(tmp_path)) == DOCUMENTS
    before = corpus_fingerprint(tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps({**ROWS[0], "text": "other"}))
    assert corpus_fingerprint(tmp_path) != before


def test_damaged_and_unknown_files_are_named(tmp_path):
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "good.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    for name in ("cut.parquet", "cut.arrow"):
        (tmp_path / name).write_bytes(whole[:-20])
        with pytest.raises(CorpusError, match=rf"{name}: damaged after row 0"):
            list(read_corpus(tmp_path / name))
    write_parquet(tmp_path / "holes.parquet", [ROWS[0], {"id": "x", "title": "", "text": None}])
    with pytest.raises(CorpusError, match=r'holes\.parquet row 1: "text" is missing'):
        list(read_corpus(tmp_path / "holes.parquet"))
    (tmp_path / "c.csv").write_text("id,text")
    with pytest.raises(CorpusError, match=r"c\.csv: not a corpus; expected a file or a folder of"):
        check_corpus(tmp_path / "c.csv")


def test_a_dataset_on_the_hub_is_named_with_config_and_split(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        if "gone" in names[0]:
            raise FileNotFoundError("no such dataset\nand more")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_corpus("hub:org/wiki/en:validation")) == DOCUMENTS
    assert corpus_name("hub:org/wiki") == "hub:org/wiki"
    assert corpus_fingerprint("hub:squad") == corpus_fingerprint("hub:squad")
    assert asked[:2] == [("org/wiki", "en", "validation"), ("squad", None, "train")]
    with pytest.raises(CorpusError, match=r"hub:org/gone does not load \(no such dataset\)"):
        list(read_corpus("hub:org/gone"))


def test_beirs_and_search_r1s_names_of_fields_are_known(tmp_path):
    lines = [
        {"_id": "b", "title": "T", "text": "x"},
        {"id": "1", "contents": '"Ada Lovelace"\nShe wrote\na program.'},
        {"id": "2", "contents": "no title"},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert list(read_corpus(tmp_path / "c.jsonl")) == [
        Document("b", "T", "x"),
        Document("1", "Ada Lovelace", "She wrote\na program."),
        Document("2", "", "no title"),
    ]


def test_of_a_beir_folder_only_the_corpus_is_read(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": "T", "text": "passage"}')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "question"}')
    assert list(read_corpus(tmp_path)) == [Document("1", "T", "passage")]


@pytest.mark.parametrize("name", ["psgs_w100.tsv", "psgs_w100.tsv.gz"])
def test_dprs_table(tmp_path, name):
    text = b'id\ttext\ttitle\n1\t"He said ""no"", \nand left"\tAaron\n2\tplain\t\n'
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert list(read_corpus(tmp_path / name)) == [
        Document("1", "Aaron", 'He said "no", \nand left'),
        Document("2", "", "plain"),
    ]
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(text)[:-12])
        with pytest.raises(CorpusError, match=r"after line \d: damaged"):
            list(read_corpus(tmp_path / name))


@pytest.mark.parametrize(
    ("record", "title"),
    [
        ({"title": 1917, "text": "x"}, "1917"),
        ({"title": float("nan"), "text": "x"}, ""),
        ({"title": "  ", "text": "x"}, ""),
        ({"title": None, "text": "x"}, ""),
        ({"contents": '""Weird Al" Yankovic"\nx'}, '"Weird Al" Yankovic'),
    ],
)
def test_titles(tmp_path, record, title):
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "1", **record}))
    assert list(read_corpus(tmp_path / "c.jsonl")) == [Document("1", title, "x")]


def test_a_text_without_spaces_is_split_by_characters():
    text = "これは文です。" * 40
    pieces = list(split_passages([Document("x", "", text)], 20))
    assert "".join(piece.text for piece in pieces) == text
    assert max(len(piece.text) for piece in pieces) <= 21
    assert all(piece.text.endswith("。") for piece in pieces)


def test_an_id_used_twice_is_refused_even_if_hashes_collide(tmp_path, monkeypatch):
    twice = [Document("a", "", "x"), Document("b", "", "y"), Document("a", "", "z")]
    for collide in (False, True):
        if collide:
            monkeypatch.setattr(stages, "id_hash", lambda passage_id: 1)
        with pytest.raises(CorpusError, match="passages 1 and 3 have the same id 'a'"):
            build_index(twice, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert len(build_index(twice[:2], tmp_path / "out")) == 2


@given(st.text("ab. \n", min_size=1).filter(str.strip), st.integers(1, 5))
def test_splitting_loses_no_word_and_keeps_the_limit(text, words):
    pieces = list(split_passages([Document("x", "T", text)], words))
    assert " ".join(piece.text for piece in pieces).split() == text.split()
    if len(pieces) > 1:
        assert all(0 < len(piece.text.split()) <= words for piece in pieces)
        assert [piece.id for piece in pieces] == [f"x#{n}" for n in range(len(pieces))]
    else:
        assert pieces == [Document("x", "T", text)]
        assert len(text.split()) <= words


def test_splitting_keeps_sentences_together():
    text = "One two three. Four five. Six seven eight nine ten eleven."
    pieces = split_passages([Document("x", "T", text)], 5)
    assert [piece.text for piece in pieces] == [
        "One two three. Four five.",
        "Six seven eight nine ten",
        "eleven.",
    ]
    assert list(split_passages([Document("x", "T", text)], None)) == [Document("x", "T", text)]


def test_an_index_of_pieces_says_so(tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"id": "a", "text": "First part here. The second is there."}))
    index = build_index(corpus, tmp_path / "out", chunk=4)
    assert index.manifest.corpus.chunk == 4
    found = index.search(["second"], 1)[0][0]
    assert (found.id, found.text) == ("a#1", "The second is there.")
    with pytest.raises(CorpusError, match="chunk=0: expected at least 1"):
        build_index(corpus, tmp_path / "other", chunk=0)
