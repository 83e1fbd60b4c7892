import subprocess
import sys
from pathlib import Path

import pytest

import retrieval_index
from ovd_envs.cache import cache_folder
from ovd_envs.episode import Episode, Task
from ovd_envs.search import make_search
from ovd_envs.search.base import SearchRequest
from ovd_envs.search.index import IndexSearch, cached_index
from retrieval_index.documents import Document
from retrieval_index.errors import IndexFileError, RetrievalError

PASSAGES = [Document(f"p{i}", "", f"passage about subject{i}") for i in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "indexes"


def request(query):
    return SearchRequest(query, Episode(Task("t", "q", ("a",)), "p"))


def test_an_index_is_asked_each_query_once(tmp_path):
    asked = []

    class Counting:
        def search(self, queries, k):
            asked.append(list(queries))
            return index.search(queries, k)

    index = retrieval_index.build_index(PASSAGES, tmp_path / "index")
    assert isinstance(make_search(index), IndexSearch)
    engine = IndexSearch(Counting())
    found = engine.search([request(query) for query in ("subject7", "subject3", "subject7")], 1)
    assert [[each.id for each in documents] for documents in found] == [["p7"], ["p3"], ["p7"]]
    assert asked == [["subject7", "subject3"]]


def test_make_search_takes_a_folder_or_an_engine(tmp_path):
    retrieval_index.build_index(PASSAGES, tmp_path / "index")
    for path in (tmp_path / "index", str(tmp_path / "index")):
        assert make_search(path).search([request("subject7")], 1)[0][0].id == "p7"

    class Engine:
        def search(self, requests, k):
            return [[] for _ in requests]

    engine = Engine()
    assert make_search(engine) is engine
    for wrong in (3, None, Engine):
        with pytest.raises(ValueError, match="expected"):
            make_search(wrong)
    with pytest.raises(IndexFileError, match="holds no index"):
        make_search(tmp_path / "none")


def test_the_cache_builds_once(cache, monkeypatch):
    assert cached_index(PASSAGES).search(["subject7"], 1)[0][0].id == "p7"
    [folder] = cache.iterdir()
    assert folder.name.startswith("passages-")
    with monkeypatch.context() as patch:
        patch.setattr(retrieval_index, "build_index", lambda *_: pytest.fail("built again"))
        assert len(cached_index(PASSAGES)) == 20
    cached_index(PASSAGES[:-1])
    cached_index(PASSAGES, name="other")
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "name", ["gen-000001/manifest.json", "gen-000001/vectors/part-00000.f32.npy", "CURRENT"]
)
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_cache_is_built_again(cache, name, cut):
    cached_index(PASSAGES)
    [folder] = cache.iterdir()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:5] if cut else content[:-3] + b"\x00\xff\x00")
    assert cached_index(PASSAGES).search(["subject7"], 1)[0][0].id == "p7"
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert (folder / name).read_bytes() != content[:5]


def test_processes_may_build_the_same_index_at_once(cache):
    script = (
        "import sys; from retrieval_index import Document;"
        "from ovd_envs.search.index import IndexSearch, cached_index;"
        "passages = [Document(f'p{i}', '', f'passage about subject{i}') for i in range(20)];"
        "print('ready', flush=True); sys.stdin.read(1);"
        "print(cached_index(passages).search(['subject7'], 1)[0][0].id)"
    )
    env = {"OVD_CACHE": str(cache.parent), "PYTHONPATH": ":".join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("g")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=60) for worker in workers]
    assert outputs == [("p7\n", "")] * 3
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVD_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write the search index to .* set OVD_CACHE"):
        cached_index(PASSAGES)


def test_the_cache_is_the_users_cache_folder_unless_told(monkeypatch):
    monkeypatch.delenv("OVD_CACHE")
    assert cache_folder().name == "ovd"
    monkeypatch.setenv("OVD_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")


def test_importing_loads_neither_faiss_nor_torch():
    script = (
        "import sys, ovd_envs.search.index, retrieval_index;"
        "heavy = {'faiss', 'torch', 'rich', 'sentence_transformers'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "[]\n"


SCRIPT = Path(__file__).parents[2] / "scripts" / "build_index.py"


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={"PYTHONPATH": f"{SCRIPT.parents[1]}:{':'.join(sys.path)}", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_builds_and_sums_up(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "title": "T", "text": "hello"}\n')
    run = run_script("--corpus", tmp_path / "c.jsonl", "--out", tmp_path / "out")
    assert (run.returncode, run.stderr) == (0, "")
    assert "1 passages" in run.stdout
    assert "hashing, 512 dimensions" in run.stdout
    assert make_search(tmp_path / "out").search([request("hello")], 1)[0][0].id == "a"


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "title": "T", "text": "hello"}\n{oops\n')
    run = run_script("--corpus", tmp_path / "c.jsonl", "--out", tmp_path / "out")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"{tmp_path / 'c.jsonl'}, line 2: broken JSON")
    assert run.stderr.count("\n") == 1
    assert issubclass(IndexFileError, RetrievalError)
