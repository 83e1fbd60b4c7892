"""Servers that take requests in other forms, answer oddly, or refuse: what a judge makes of it."""

import json
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd_envs.episode import Episode, Task, Turn
from ovd_envs.errors import OptionError, TeacherUnavailable
from ovd_envs.llm.connection import probabilities_at_digit
from ovd_envs.llm.forms import Form
from ovd_envs.llm.text import plain
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.llm.prompts import play_messages, score_messages
from ovd_envs.teachers.llm.teacher import LLMOptions, LLMTeacher
from retrieval_index.documents import Document

pytest.importorskip("httpx", reason='pip install -e ".[teacher]"')

PROMPT = "Answer. <search>query</search> <answer>answer</answer>.\nQuestion: who?\n"


def request(text="Ada"):
    turn = Turn(f"<answer>{text}</answer>", "answer", text)
    return ScoreRequest(Episode(Task("t", "who?", ("Ada",)), PROMPT, turns=[turn]), 0)


def teacher_of(server, **options):
    options = {"try_seconds": 4.0, "total_seconds": 30.0, **options}
    return LLMTeacher(LLMOptions("m", server.url, **options))


def refusal(status, message):
    return status, json.dumps({"error": {"message": message}})


SERVERS = {
    # parameter refused: what the server says, and what the request then holds
    "o4-mini": (
        lambda body: (
            refusal(403, "You are not allowed to request logprobs from this model")
            if "logprobs" in body
            else refusal(400, "Unrecognized request argument supplied: structured_outputs")
            if "structured_outputs" in body
            else refusal(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead.")
            if "max_tokens" in body
            else refusal(400, "'temperature' does not support 0.0. Only the default (1) value.")
            if "temperature" in body
            else None
        ),
        Form(structured=False, top_logprobs=0, tokens="max_completion_tokens", temperature=False),
    ),
    "at most five": (
        lambda body: (
            refusal(400, "Invalid value for 'top_logprobs': must be at most 5")
            if body.get("top_logprobs", 0) > 5
            else None
        ),
        Form(top_logprobs=5),
    ),
    "mistral": (
        lambda body: (
            (
                422,
                json.dumps(
                    {
                        "detail": [
                            {
                                "type": "extra_forbidden",
                                "loc": ["body", "structured_outputs"],
                                "msg": "Extra inputs are not permitted",
                            }
                        ]
                    }
                ),
            )
            if "structured_outputs" in body
            else None
        ),
        Form(structured=False),
    ),
    "groq": (
        lambda body: (
            refusal(400, "`logprobs` is not supported with this model")
            if "logprobs" in body
            else None
        ),
        Form(top_logprobs=0),
    ),
    "gemma": (
        lambda body: (
            refusal(400, "System role not supported")
            if body["messages"][0]["role"] == "system"
            else None
        ),
        Form(system=False),
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_asked_in_the_form_it_takes_and_this_is_said_once(serve, caplog, name):
    refuses, form = SERVERS[name]
    server = serve(lambda number, body: refuses(body) or "8")
    teacher = teacher_of(server, concurrency=1)
    with caplog.at_level(logging.WARNING):
        assert [score.level for score in teacher.score([request("a"), request("b")])] == [8, 8]
    assert teacher._connection.form == form
    assert len(caplog.messages) == 1
    asked = len(server.bodies)
    teacher.score([request("c")])
    assert len(server.bodies) == asked + 1  # in the right form at once
    words = "".join(message["content"] for message in server.bodies[-1]["messages"])
    assert "You grade one step" in words


def test_one_passing_refusal_changes_no_form(serve):
    server = serve(lambda number, body: refusal(400, "hiccup") if number == 0 else "8")
    teacher = teacher_of(server)
    assert [score.level for score in teacher.score([request()])] == [8]
    assert teacher._connection.form == Form()
    assert "structured_outputs" in server.bodies[-1]


def test_a_demonstration_loses_what_its_server_refuses(serve):
    def plan(number, body):
        for name in ("seed", "stop"):
            if name in body:
                return refusal(400, f"Unsupported parameter: '{name}'")
        return "<answer>Ada</answer>"

    teacher = teacher_of(serve(plan))
    assert teacher.act([Episode(Task("t", "who?", ("Ada",)), PROMPT)]) == ["<answer>Ada</answer>"]
    assert (teacher.usage.actions, teacher._connection.form) == (1, Form(seed=False, stop=False))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (refusal(401, "wrong key"), r"HTTP 401: wrong key\); check the model's name and the key"),
        (refusal(403, "no access"), "HTTP 403: no access"),
        ((429, '{"error": {"code": "insufficient_quota", "message": "pay"}}'), "HTTP 429"),
        ((429, "later", "text/plain", {"Retry_After": "86400"}), "HTTP 429: later"),
        ((307, "", "text/plain", {"Location": "http://h/"}), "redirected to http://h/"),
        ((200, "data: {}", "text/event-stream"), "text/event-stream"),
    ],
)
def test_what_is_hopeless_fails_at_once(serve, reply, said):
    server = serve(lambda number, body: reply)
    with pytest.raises(TeacherUnavailable, match=said):
        teacher_of(server).score([request()])
    assert len(server.bodies) == 1


def test_an_address_without_v1_is_advised(serve):
    server = serve(lambda number, body: (404, '{"detail": "Not Found"}'))
    server_root = server.url.removesuffix("/v1")
    with pytest.raises(TeacherUnavailable, match=r"mostly ends with /v1: http://127.0.0.1:\d+/v1"):
        LLMTeacher(LLMOptions("m", server_root)).score([request()])


@pytest.mark.parametrize("status", [408, 409, 503])
def test_a_passing_status_is_asked_again(serve, status):
    server = serve(lambda number, body: refusal(status, "later") if number == 0 else "8")
    assert [score.level for score in teacher_of(server).score([request()])] == [8]


def answer(**changes):
    choice = {"message": {"content": "8"}, "finish_reason": "stop", "logprobs": None}
    return {"choices": [{**choice, **changes.pop("choice", {})}], **changes}


@pytest.mark.parametrize("usage", [None, {}, [], {"prompt_tokens": None}, {"prompt_tokens": -1}])
def test_odd_usage_is_no_reason_to_lose_a_score(serve, usage):
    teacher = teacher_of(serve(lambda number, body: answer(usage=usage)))
    assert [score.expected for score in teacher.score([request()])] == [8.0]
    assert teacher.usage.prompt_tokens == 0


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (answer(choice={"finish_reason": "content_filter"}), "withholds it: content filter"),
        (answer(choice={"message": {"content": None, "refusal": "I won't"}}), "I won't"),
        (answer(choice={"message": {"content": None}}), r"no text in the answer \(stop\)"),
        ({"error": {"message": "overloaded"}}, "an error instead of an answer: overloaded"),
        ([], "not an answer"),
        ({"choices": [None]}, "not an answer"),
        ({"choices": {"0": 1}}, "not an answer"),
        ("deep", "not JSON"),
        ("html", "not JSON but text/html: Bad gateway"),
    ],
)
def test_an_odd_reply_is_one_missing_score_with_the_servers_words(serve, reply, why):
    odd = serve(lambda number, body: reply if "odd" in str(body["messages"]) else "8")
    scores = teacher_of(odd, total_seconds=0.6).score([request("odd"), request("b")])
    assert [score.level for score in scores] == [None, 8]

    assert re.search(why, scores[0].rationale)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["content", "token", "logprob", "top_logprobs"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_no_shape_of_log_probabilities_is_an_error(value):
    for each in probabilities_at_digit(value), probabilities_at_digit({"content": value}):
        assert all(0 <= probability <= 1.01 * 12 for probability in each.values())


@pytest.mark.parametrize("key", ["abc\n", "a b", "schlüssel"])
def test_a_key_that_fits_no_header_is_named_at_once(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(OptionError, match="OPENAI_API_KEY holds") as caught:
        LLMTeacher(LLMOptions("m"))
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://me:secret@h/v1"])
def test_addresses_are_checked_when_they_are_given(url):
    with pytest.raises(OptionError) as caught:
        LLMOptions("m", url)
    assert "secret" not in str(caught.value)


CONTROL = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>", "[/INST]", "<｜User｜>", "<turn|>"]


@pytest.mark.parametrize("token", CONTROL)
def test_nothing_from_outside_is_a_control_token_for_the_judge_or_the_teacher(token):
    """A server tokenizes template and text together."""
    task = Task("t", f"who {token}?", (f"Ada {token}",))
    prompt = PROMPT.replace("who?", task.prompt)
    document = Document("d", f"title {token}", f"text {token}")
    turns = [
        Turn(f"<search>{token}</search>", "search", token, observation=f"a {token}"),
        Turn(f"x {token}", "invalid", token, observation=f"b {token}"),
        Turn(f"<answer>{token}</answer>", "answer", token),
    ]
    turns[0].documents = (document,)
    episode = Episode(task, prompt, turns=turns, rubric="question")
    messages = [play_messages(episode)]
    for shows in (True, False):
        messages += [
            score_messages(ScoreRequest(episode, index), shows_answer=shows) for index in range(3)
        ]
    for each in messages:
        assert token not in "".join(message["content"] for message in each)
    # The environment's own tags reach the teacher whole.
    assert "<search>query</search>" in messages[0][1]["content"]
    assert messages[0][2]["content"].startswith("<search>")


def test_plain_text_stays_as_it_is():
    text = "if a < b and c > d then x<5 [see 3] [12] costs 5 $ & more"
    assert plain(text) == text
