"""`ovd view`: what is listed, what grows, and that no text of an episode can run."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import pytest

from ovd_agent.cli.main import main
from ovd_agent.runs.logs import PLAYED_FILE, RunLog
from ovd_agent.view.server import ViewServer
from ovd_agent.view.store import RunStore
from ovd_envs.episode import Episode, Task, Turn, VerbalScore
from ovd_envs.errors import OptionError

SHOUT = "<img src=x onerror=document.title='pwned'><script>document.title='pwned'</script>"

UPDATE = {"update": 0, "em": 0.5, "loss": 1.0, "seconds": {"total": 1.0}}


def episode(number: int, said: str = "hm", score: int = 5) -> Episode:
    task = Task(f"t{number % 10}", f"question {number % 10}?", ("a",), hops=1 + number % 3)
    turn = Turn(said, "answer", said, score=VerbalScore(score, float(score), said, "oracle"))
    turn.reward = 0.0
    return Episode(
        task, "p", turns=[turn], terminated=True, end_reason="answered",
        exact_match=float(number % 2), f1=0.0,
    )  # fmt: skip


def played(number: int, **options) -> str:
    record = {"update": number // 10, "kind": "sample"}
    return json.dumps({**record, "episode": json.loads(episode(number, **options).to_json())})


@pytest.fixture
def folder(tmp_path):
    config = {"env": {"name": "e"}, "algorithm": {"name": "ovd"}, "student": "s", "updates": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [played(n, score=n % 10) for n in range(30)]
    (tmp_path / PLAYED_FILE).write_text("\n".join(lines) + "\n")
    for name in ("before", "after"):
        text = "\n".join(episode(n).to_json() for n in range(10))
        (tmp_path / f"episodes_{name}.jsonl").write_text(text + "\n")
    (tmp_path / "log.jsonl").write_text(json.dumps(UPDATE) + "\n")
    return tmp_path


@pytest.fixture
def address(folder):
    server = ViewServer(RunStore(folder), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.url
    server.shutdown()
    server.server_close()


def ask(url: str):
    with urllib.request.urlopen(url) as reply:
        return json.load(reply)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 30),
        ({"em": "1"}, 15),
        ({"hops": "2"}, 10),
        ({"update": "2"}, 10),
        ({"least": "7"}, 9),
        ({"least": "3", "most": "4"}, 6),
        ({"text": "QUESTION 3"}, 3),
        ({"end": "turn_limit"}, 0),
        ({"kind": "sample", "em": "0", "update": "1"}, 5),
    ],
)
def test_episodes_are_filtered(folder, wanted, count):
    store = RunStore(folder)
    assert store.page("training", wanted)["total"] == count


def test_pages_and_order(folder):
    store = RunStore(folder)
    first = store.page("training", {"limit": "12"})
    last = store.page("training", {"limit": "12", "offset": "24"})
    assert [each["place"] for each in first["episodes"]] == list(range(12))
    assert [each["place"] for each in last["episodes"]] == list(range(24, 30))
    newest = store.page("training", {"limit": "2", "order": "newest"})
    assert [each["place"] for each in newest["episodes"]] == [29, 28]


def test_an_episode_stands_beside_those_of_its_task(folder):
    store = RunStore(folder)
    assert store.episode("training", 13)["episode"]["task"]["id"] == "t3"
    beside = store.episode("after", 4)["beside"]
    assert [(each["source"], each["place"]) for each in beside] == [("before", 4)]


def test_what_is_written_meanwhile_is_taken_in_and_a_torn_line_waits(folder):
    store = RunStore(folder)
    assert store.summary()["counts"]["training"] == 30
    with (folder / PLAYED_FILE).open("a") as file:
        file.write(played(30) + "\n" + played(31)[:40])
    assert store.summary()["counts"]["training"] == 31
    with (folder / PLAYED_FILE).open("a") as file:
        file.write(played(31)[40:] + "\n")
    assert store.page("training", {})["total"] == 32
    RunLog(folder, 3, resume_from=1)  # a run that goes on from its first update
    assert store.page("training", {})["total"] == 10


def test_the_server_says_no_in_json_and_lets_nothing_run(address):
    for path in ("api/episodes?source=no", "api/episode?source=after&place=99", "etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(address + path)
        assert error.value.code == 404
    assert ask(address + "api/run")["counts"] == {"training": 30, "before": 10, "after": 10}
    with urllib.request.urlopen(address) as reply:
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert b"onclick" not in reply.read()


def test_another_folder_is_one_sentence(tmp_path, capsys):
    with pytest.raises(OptionError, match="expected a run's folder"):
        RunStore(tmp_path)
    assert main(["view", str(tmp_path)]) == 2
    assert "expected a run's folder" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_shows_an_episode_and_runs_none_of_its_text(folder, address, tmp_path):
    with (folder / PLAYED_FILE).open("a") as file:
        file.write(played(30, said=SHOUT) + "\n")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    page = subprocess.run(
        [*command, f"{address}#training/30"], capture_output=True, text=True, timeout=120
    ).stdout
    assert "1 to 31 of 31 episodes" in page
    assert "<title>" in page
    assert "pwned</title>" not in page
    assert "&lt;script&gt;" in page
    assert "<img" not in page
