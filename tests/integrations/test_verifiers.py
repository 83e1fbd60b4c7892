"""Our tasks and scenario in verifiers 0.4, played by a scripted model behind a real server."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("verifiers.v1", reason="make test-adapters")
import verifiers.v1 as vf
from verifiers.v1.configs.client import EvalClientConfig

from ovd_envs.integrations.verifiers import OVDEnv, configured
from ovd_envs.registry import make_scenario
from tests.integrations.scripted import SCRIPT, SMALL, WEBQA, ours


class Model(BaseHTTPRequestHandler):
    """Streams the next action of the script, by how often the model has spoken."""

    said: list[list[dict]]
    status = 200

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.said.append(body["messages"])
        spoken = sum(each["role"] == "assistant" for each in body["messages"])
        self.send_response(self.status)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        for delta, finish in (
            ({"role": "assistant", "content": SCRIPT[spoken % len(SCRIPT)]}, None),
            ({}, "stop"),
        ):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self.wfile.write(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setenv("NO_KEY", "none")
    handler = type("Handler", (Model,), {"said": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def played(url: str, task: int = 0, **options):
    env = OVDEnv(configured(WEBQA, **{**SMALL, **options}))
    chosen = list(env.taskset)[task]
    context = vf.ModelContext(
        model="m", client=EvalClientConfig(base_url=url, api_key_var="NO_KEY")
    )

    async def play():
        async with env.serving():
            return await env.run_episode(chosen, context)

    return chosen, asyncio.run(asyncio.wait_for(play(), 90))


def test_an_episode_is_that_of_gymnasium(model):
    handler, url = model
    task, episode = played(url, 4)
    expected, info = ours(seed=0, task_id=task.data.name)
    [trace] = episode.traces
    assert episode.ok, (episode.errors, trace.errors)
    heard = [each["content"] for each in handler.said[-1] if each["role"] == "user"]
    assert [text.strip() for text in heard] == [text.strip() for text, *_ in expected[:3]]
    assert trace.rewards["return"].score == expected[-1][1]
    assert trace.info["verbal_scores"] == [score for *_, score in expected[1:]]
    assert trace.info["exact_match"] == info["exact_match"]
    assert trace.info["end_reason"] == "answered"


def test_every_task_is_there_by_its_id(model):
    _, tasks = make_scenario(WEBQA, **SMALL)
    env = OVDEnv(configured(WEBQA, **SMALL))
    assert [each.data.name for each in env.taskset] == [task.id for task in tasks]
    assert all(task.prompt in each.data.prompt for task, each in zip(tasks, env.taskset))


def test_a_fault_fails_the_episode_and_is_not_paid(model, tmp_path):
    _, url = model
    _, episode = played(url, search="http://127.0.0.1:9")
    assert not episode.ok
    assert not any("return" in trace.rewards for trace in episode.traces)


def test_a_model_that_fails_is_not_paid(model):
    handler, url = model
    handler.status = 400
    _, episode = played(url)
    assert not episode.ok
    assert not any("return" in trace.rewards for trace in episode.traces)
