"""Our environments behind OpenEnv's protocol, over a real socket."""

from __future__ import annotations

import socket
import threading
import time

import pytest

pytest.importorskip("openenv.core", reason="make test-adapters")
import uvicorn

from ovd_envs.errors import OptionError, SearchUnavailable
from ovd_envs.integrations.openenv import TextAction, TextClient, TextEnvironment, make_app
from ovd_envs.registry import make_scenario
from tests.integrations.scripted import SCRIPT, SMALL, WEBQA, Failing, ours


@pytest.fixture(scope="module")
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(make_app(WEBQA, 4, **SMALL), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_an_episode_is_that_of_gymnasium(address):
    expected, info = ours(seed=3)
    with TextClient(base_url=address).sync() as env:
        result = env.reset(seed=3)
        found = [(result.observation.text, 0.0, None)]
        for action in SCRIPT:
            result = env.step(TextAction(text=action))
            score = result.observation.info["verbal_score_expected"]
            found.append((result.observation.text, result.reward, score))
        assert result.done
        assert env.state().step_count == 3
    assert found == expected
    assert result.observation.info["exact_match"] == info["exact_match"]


def test_connections_have_episodes_of_their_own_and_tasks_by_id(address):
    _, tasks = make_scenario(WEBQA, **SMALL)
    with TextClient(base_url=address).sync() as one, TextClient(base_url=address).sync() as other:
        first = one.reset(task_id=tasks[0].id).observation.text
        second = other.reset(task_id=tasks[5].id).observation.text
        one.step(TextAction(text=SCRIPT[0]))
        assert other.state().step_count == 0
    assert tasks[0].prompt in first
    assert tasks[5].prompt in second


def test_a_fault_is_not_paid():
    env = TextEnvironment(WEBQA, search=Failing(), **SMALL)
    env.reset(seed=0)
    with pytest.raises(SearchUnavailable):
        env.step(TextAction(text=SCRIPT[0]))


def test_bad_options_are_said_before_anyone_connects():
    with pytest.raises(OptionError, match="max_turns=0"):
        make_app(WEBQA, max_turns=0)
