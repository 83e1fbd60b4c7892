"""The run's log: nothing twice, nothing torn, after whatever a killed run left behind."""

import json

import pytest

from ovd_agent.runs.logs import RunLog, read_log

METRICS = {"em": 0.5, "acceptance": None, "seconds": {"total": 2.0}, "score_histogram": [0, 1]}
RESULT = {"em": 0.5, "em_low": 0.4, "em_high": 0.6, "f1": 0.5, "count": 10}


def numbers(path):
    return [record["update"] for record in read_log(path)]


def test_a_resumed_run_has_every_update_once(tmp_path):
    with RunLog(tmp_path, 6, quiet=True) as log:
        log.evaluation(0, RESULT)
        for update in range(4):
            log.log(update, METRICS)
        log.evaluation(4, RESULT)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"update": 4, "em": 0.')
    with RunLog(tmp_path, 6, quiet=True, resume_from=2) as log:
        assert log.evaluated == {0}
        for update in range(2, 6):
            log.log(update, METRICS)
        log.evaluation(6, RESULT)
    assert numbers(tmp_path / "log.jsonl") == [0, 1, 2, 3, 4, 5]
    assert numbers(tmp_path / "eval.jsonl") == [0, 6]
    assert read_log(tmp_path / "log.jsonl")[5] == {"update": 5, **METRICS}


def test_a_run_killed_before_its_first_checkpoint_keeps_only_the_first_evaluation(tmp_path):
    with RunLog(tmp_path, 6, quiet=True) as log:
        log.evaluation(0, RESULT)
        log.log(0, METRICS)
    with RunLog(tmp_path, 6, quiet=True) as log:
        assert log.evaluated == {0}
    assert numbers(tmp_path / "log.jsonl") == []


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"update": 0}\n{"upd\n{"update": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2"):
        read_log(path)


def test_not_a_number_is_refused_before_anything_is_written(tmp_path):
    with RunLog(tmp_path, 1, quiet=True) as log, pytest.raises(ValueError, match="JSON"):
        log.log(0, {**METRICS, "loss": float("nan")})
    assert json.loads((tmp_path / "log.jsonl").read_text() or "null") is None


def test_scalars_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, 1, quiet=True) as log:
        log.log(0, METRICS)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("em")[0].value == 0.5
    assert events.Scalars("seconds/total")[0].value == 2.0


def test_a_log_that_is_no_terminal_tells_every_update(tmp_path, capsys):
    with RunLog(tmp_path, 3) as log:
        log.log(0, METRICS)
        log.log(1, METRICS)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("update")]
    assert lines[0] == "update 1 of 3: 30.0 updates/min  EM 0.50, 0:00:04 left"
    assert lines[1] == "update 2 of 3: 30.0 updates/min  EM 0.50, 0:00:02 left"


def test_the_time_left_is_told_after_the_first_update_and_counts_evaluations(tmp_path, capsys):
    with RunLog(tmp_path, 6, eval_every=2) as log:
        log.evaluation(0, RESULT | {"seconds": 30.0})
        log.log(0, METRICS)  # five updates of 2 s and three evaluations are to come
        assert "0:01:40 left" in capsys.readouterr().out
        log.log(1, METRICS)
        assert "0:01:38 left" in capsys.readouterr().out
        log.evaluation(2, RESULT | {"seconds": 10.0})
        assert log._seconds_left(2, evaluated=True) == 4 * 2 + 2 * 10
    with RunLog(tmp_path, 6, eval_every=2, resume_from=2) as log:  # a resumed run knows its pace
        assert log._seconds_left(2, evaluated=True) == 4 * 2 + 2 * 10


def test_held_out_play_shows_how_far_it_is(tmp_path):
    with RunLog(tmp_path, 1, quiet=True) as log:
        with log.playing(40) as finished:
            finished(10)
            [bar] = [task for task in log._progress.tasks if task.description == "held-out play"]
            assert (bar.completed, bar.total) == (10, 40)
        assert len(log._progress.tasks) == 1
