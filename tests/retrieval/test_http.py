"""JSON over HTTP against servers that misbehave: every limit holds, nothing is followed."""

import os
import pickle
import time
import warnings

import pytest
from faulty_server import Server

from retrieval_index.client import RetrievalClient, ServerError
from retrieval_index.errors import OptionError, RetrievalError
from retrieval_index.http import (
    HTTPFault,
    JSONClient,
    OutOfTime,
    check_address,
    persist,
    said,
)

pytest.importorskip("httpx", reason='pip install -e ".[serve]"')


@pytest.fixture
def serve():
    servers = []

    def start(*replies):
        servers.append(Server(lambda number, body: replies[min(number, len(replies) - 1)]))
        return servers[-1]

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


def post(server, seconds=0.5, **options):
    client = JSONClient(**options)
    return client.run(client.post(f"{server.url}/x", {"a": 1}, seconds))


def fault_of(server, **options):
    with pytest.raises(HTTPFault) as caught:
        post(server, **options)
    return caught.value


def test_json_goes_out_and_comes_back(serve):
    server = serve({"b": 2})
    assert post(server, seconds=30) == {"b": 2}
    assert server.bodies == [{"a": 1}]


@pytest.mark.parametrize("kind", ["drip", "drip_headers", "hang"])
def test_the_deadline_holds_however_slowly_a_reply_comes(serve, kind):
    """The slow replies take at least 6 seconds, and the limit is half a second."""
    start = time.monotonic()
    assert fault_of(serve(kind)).kind == "timeout"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["bomb", "deep", "junk"])
def test_bodies_are_bounded_and_read_with_care(serve, kind):
    fault = fault_of(serve(kind), seconds=30, max_body=10_000_000)
    assert (fault.kind, fault.again) == ("junk", True)
    assert "longer than 10000000 bytes" in str(fault) or kind != "bomb"


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_cut_connections(serve, kind):
    assert fault_of(serve(kind), seconds=30).kind == "connection"


@pytest.mark.parametrize("status", [301, 307, 308])
def test_redirects_are_named_and_not_followed(serve, status):
    other = serve("1")
    server = serve((status, "", "text/plain", {"Location": other.url}))
    fault = fault_of(server, seconds=30)
    assert (fault.kind, fault.again) == ("redirect", False)
    assert f"redirected to {other.url}: give that address" in str(fault)
    assert other.bodies == []


@pytest.mark.parametrize(
    ("status", "text", "again"),
    [
        *((status, "busy", True) for status in (408, 409, 425, 429, 500, 502, 503, 504)),
        *((status, "no", False) for status in (400, 401, 403, 404, 422, 501)),
        (429, '{"error": {"code": "insufficient_quota", "message": "pay"}}', False),
        (429, '{"error": {"message": "You exceeded your current quota"}}', False),
    ],
)
def test_which_refusals_pass(serve, status, text, again):
    fault = fault_of(serve((status, text)), seconds=30)
    assert (fault.kind, fault.again) == (str(status), again)


@pytest.mark.parametrize(
    ("header", "after"),
    [("3", 3.0), ("0", None), ("nan", None), ("inf", None), ("-1", None), ("soon", None)],
)
def test_retry_after_is_a_positive_number_or_nothing(serve, header, after):
    server = serve((429, "busy", "text/plain", {"Retry_After": header}))
    assert fault_of(server, seconds=30).after == after


def test_retry_after_may_be_a_date(serve):
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert fault_of(serve((429, "", "text/plain", {"Retry_After": past})), seconds=30).after is None
    to_come = past.replace("2015", "2099")
    server = serve((429, "", "text/plain", {"Retry_After": to_come}))
    assert fault_of(server, seconds=30).after > 86_400


def test_a_server_that_can_only_stream_is_hopeless(serve):
    fault = fault_of(serve((200, 'data: {"a": 1}', "text/event-stream")), seconds=30)
    assert not fault.again
    assert "text/event-stream" in str(fault)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"error": {"message": "too hot", "code": 3}}', "too hot"),
        ('{"error": "too hot"}', "too hot"),
        ('{"message": "too hot"}', "too hot"),
        ('{"detail": [{"loc": ["body"], "msg": "too hot"}]}', "too hot"),
        ("<html><h1>too\nhot</h1></html>", "too hot"),
        ("\x1b[31mtoo hot", "[31mtoo hot"),
        ("", "no words"),
    ],
)
def test_the_servers_own_words(text, words):
    assert said(text) == words


def persisted(client, faults, **limits):
    """Tries that bring these faults and then a result; how long each try was given."""
    given = []

    async def attempt(seconds):
        given.append(seconds)
        if faults:
            raise faults.pop(0)
        return "done"

    limits = {"address": "http://h", "try_seconds": 5.0, "total_seconds": 60.0, **limits}
    return client.run(persist(attempt, **limits)), given


def test_passing_faults_are_tried_again_and_counted(monkeypatch):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.001)
    heard = []
    faults = [HTTPFault("500", "a"), HTTPFault("400", "b", after=0.0)]
    result, given = persisted(JSONClient(), faults, on_fault=lambda fault: heard.append(fault.kind))
    assert (result, heard, given) == ("done", ["500", "400"], [5.0] * 3)


def test_tries_that_fail_leave_a_line_and_the_third_warns(monkeypatch, caplog):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.001)
    caplog.set_level("INFO", "retrieval_index.http")
    persisted(JSONClient(), [HTTPFault("500", "busy") for _ in range(4)])
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING", "INFO"]
    assert caplog.records[2].getMessage() == "http://h: try 3 failed (busy); it is tried again"


@pytest.mark.parametrize("fault", [HTTPFault("401", "no", again=False), HTTPFault("429", "x")])
def test_hopeless_faults_are_raised_at_once(fault):
    fault.after = None if fault.kind == "401" else 86_400.0
    with pytest.raises(HTTPFault) as caught:
        persisted(JSONClient(), [fault])
    assert caught.value is fault


def test_time_and_tries_end(monkeypatch):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.001)
    with pytest.raises(OutOfTime, match="b, after 2 tries"):
        persisted(JSONClient(), [HTTPFault("500", "a"), HTTPFault("500", "b")], tries=2)
    with pytest.raises(OutOfTime, match=r"a, for 0.05 seconds"):
        persisted(JSONClient(), [HTTPFault("500", "a") for _ in range(999)], total_seconds=0.05)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://a b", "http://h\n",
     "http://h?key=1"],
)  # fmt: skip
def test_addresses_are_checked_before_anything_is_sent(url):
    with pytest.raises(OptionError, match=r"url=.*expected http://HOST"):
        check_address(url, "url", OptionError)


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(RetrievalError, match=r"the URL of h carries.*~/.netrc") as caught:
        check_address("https://me:secret@h:1/v1", "url", RetrievalError)
    assert "secret" not in str(caught.value)
    assert check_address("https://h:1/v1/", "url", OptionError) == "https://h:1/v1"


def test_netrc_signs_requests_to_its_hosts_alone(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o644)
    with pytest.raises(OptionError, match=r"~/.netrc: .*too permissive"):
        post(serve({"b": 2}), seconds=30)
    netrc.chmod(0o600)
    server = serve({"b": 2})
    assert post(server, seconds=30) == {"b": 2}
    assert server.authorizations == ["Basic bWU6c2VjcmV0"]


def test_a_client_works_after_a_fork(serve):
    server = serve({"b": 2})
    client = JSONClient()
    assert client.run(client.post(server.url, {}, 30)) == {"b": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
        child = os.fork()
    if child == 0:
        os._exit(0 if client.run(client.post(server.url, {}, 30)) == {"b": 2} else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_index_client_has_the_same_limits(serve, monkeypatch):
    monkeypatch.setattr("retrieval_index.http._FIRST_WAIT", 0.001)
    with pytest.raises(ServerError, match=r"does not answer \(no answer in 0.2 seconds, after 5"):
        RetrievalClient(serve("drip").url, seconds=0.2).search(["x"])
    with pytest.raises(ServerError, match="answers like no index server"):
        RetrievalClient(serve({"results": []}).url).search(["x"])
    with pytest.raises(RetrievalError, match="expected http://HOST"):
        RetrievalClient("localhost:8000")
    hit = {"document": {"id": "a", "title": "t", "text": "x"}, "score": 1.0}
    client = pickle.loads(pickle.dumps(RetrievalClient(serve("busy", {"result": [[hit]]}).url)))
    assert [[each.id for each in found] for found in client.search(["x"])] == [["a"]]
