"""Progress where there is no terminal: lines, and nothing of work that is soon done."""

import pytest

from retrieval_index import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_a_minute(clock, capsys):
    with progress.progress_bar("encoding", 1000, None, done=100) as advance:
        for second in range(1, 61):
            clock[0] = float(second)
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "encoding: 400 of 1,000, 10.0/s, 0:01:00 left",
        "encoding: 700 of 1,000, 10.0/s, 0:00:30 left",
    ]


def test_an_unknown_total_has_no_time_left(clock, capsys):
    with progress.progress_bar("reading", None, None) as advance:
        clock[0] = 40.0
        advance(80)
    assert capsys.readouterr().err == "reading: 80, 2.0/s\n"


def test_nothing_is_said_when_silence_was_asked_for(clock, capsys):
    with progress.progress_bar("reading", None, False) as advance:
        clock[0] = 40.0
        advance(80)
    assert capsys.readouterr().err == ""
