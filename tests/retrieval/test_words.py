"""Words of all scripts, found with and without their accents, in the same bytes everywhere."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_index import build_index
from retrieval_index.documents import Document
from retrieval_index.index import PassageIndex
from retrieval_index.manifest import Bm25Record
from retrieval_index.words import WORDS, splitter

PASSAGES = [
    Document("tokyo", "東京", "東京都は日本の首都である。"),
    Document("osaka", "大阪", "大阪市は関西の都市である。"),
    Document("bangkok", "กรุงเทพ", "กรุงเทพมหานครเป็นเมืองหลวง"),
    Document("beijing", "北京", "北京是中国的首都"),
    Document("zurich", "Zürich", "Zürich liegt in der Schweiz."),
    Document("istanbul", "İstanbul", "İstanbul Türkiye'nin en büyük şehridir."),
    Document("singer", "Beyoncé", "Beyoncé sings."),
    Document("lodz", "Łódź", "Łódź is a city in Poland."),
    Document("seoul", "서울", "서울은 대한민국의 수도이다."),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(PASSAGES, tmp_path_factory.mktemp("words") / "index")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("東京", "tokyo"),
        ("日本の首都", "tokyo"),
        ("中国首都", "beijing"),
        ("大阪市", "osaka"),
        ("เมืองหลวง", "bangkok"),
        ("Zurich", "zurich"),
        ("ZU\u0308RICH", "zurich"),
        ("istanbul", "istanbul"),
        ("Beyonce", "singer"),
        ("Beyonce\u0301", "singer"),
        ("ｂｅｙｏｎｃé", "singer"),
        ("Lodz", "lodz"),
        ("서울은", "seoul"),
    ],
)
def test_every_script_finds_its_passage_by_words(index, query, found):
    assert index.search([query], 1, "bm25")[0][0].id == found


def test_accents_may_be_told_apart(tmp_path):
    index = build_index(PASSAGES, tmp_path / "index", words="segmented")
    assert index.search(["Zurich", "Zürich"], 1, "bm25")[0] == []
    assert index.search(["東京"], 1, "bm25")[0][0].id == "tokyo"
    assert PassageIndex.open(tmp_path / "index").search(["Zurich"], 1, "bm25") == [[]]


@given(st.text(st.characters(max_codepoint=127)))
def test_english_is_cut_alike_by_all(text):
    first, *others = (splitter(kind)(text) for kind in WORDS)
    assert all(other == first for other in others)


@given(st.text())
def test_words_are_never_empty_and_folding_twice_changes_nothing(text):
    words = splitter("folded")(text)
    assert all(words)
    assert splitter("folded")(" ".join(words)) == words


def test_an_index_of_before_words_were_an_option_still_opens(index):
    old = replace(index.manifest, bm25=Bm25Record(0.9, 0.4, "lucene", "english"))
    identity = [
        old.schema_version,
        old.corpus.sha256,
        {name: getattr(old.encoder, name) for name in ("name", "dimension", "fingerprint")},
        {name: getattr(old.dense, name) for name in ("factory", "metric", "rows")},
        {"k1": 0.9, "b": 0.4, "method": "lucene", "stemmer": "english"},
    ]
    text = json.dumps(identity, sort_keys=True).encode()
    assert old.fingerprint == hashlib.sha256(text).hexdigest() != index.fingerprint


def test_the_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) for p in PASSAGES)
    )
    program = (
        "import sys; from retrieval_index import build_index;"
        "build_index(sys.argv[1], sys.argv[2], progress=False)"
    )
    hashes = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        words = [sys.executable, "-c", program, str(tmp_path / "c.jsonl"), str(out)]
        subprocess.run(words, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
        manifest = json.loads((out / "gen-000001/manifest.json").read_text())
        hashes.append({file["path"]: file["sha256"] for file in manifest["files"]})
    assert hashes[0] == hashes[1]
