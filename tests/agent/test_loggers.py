"""Loggers by name, with the real packages where they are installed; nothing leaves the machine."""

import json
import time
from typing import ClassVar

import pytest

from ovd_agent.runs import loggers
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.loggers import Loggers, RunOf
from ovd_agent.runs.logs import RunLog
from ovd_envs.errors import OptionError
from tests.agent.test_logs import METRICS, RESULT


def logged(folder, names, resume_from=0):
    with RunLog(
        folder, 3, quiet=True, resume_from=resume_from, loggers=names, config={"seed": 7}
    ) as log:
        if not resume_from:
            log.evaluation(0, RESULT)
        for update in range(resume_from, resume_from + 2):
            log.log(update, {**METRICS, "em": update / 10})


def test_weights_and_biases_gets_every_figure(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason='pip install -e ".[loggers]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(tmp_path, ("wandb",))
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert RunOf(tmp_path, {}).id in file.name
    deadline = time.monotonic() + 60  # its own process writes; `finish` may return before
    while b"seconds/total" not in file.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_trackio_gets_every_figure_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason='pip install -e ".[loggers]"')
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "trackio")
    run = tmp_path / "demo"
    logged(run, ("trackio",))
    logged(run, ("trackio",), resume_from=1)
    assert trackio is not None
    found = storage.get_logs("ovd", "demo")
    assert [(each["step"], each["em"]) for each in found if "em" in each] == [
        *((0, 0.0), (1, 0.1)),
        *((1, 0.1), (2, 0.2)),
    ]
    assert any(each.get("held_out/em") == 0.5 for each in found)


def test_several_loggers_or_none(tmp_path, monkeypatch):
    class Kept:
        made: ClassVar[list] = []

        def __init__(self, run):
            self.run, self.figures, self.closed = run, {}, False
            self.made.append(self)

        def log(self, update, figures):
            self.figures.setdefault(update, {}).update(figures)

        def close(self):
            self.closed = True

    monkeypatch.setitem(loggers.LOGGERS._entries, "kept", loggers.LOGGERS._entries["tensorboard"])
    loggers.LOGGERS.register("kept", Kept)
    logged(tmp_path / "some", ("kept", "tensorboard"))
    [kept] = Kept.made
    assert kept.closed
    assert kept.run.config == {"seed": 7}
    assert kept.figures[0] == {
        "held_out/em": 0.5,
        "held_out/f1": 0.5,
        "em": 0.0,
        "seconds/total": 2.0,
    }
    assert list((tmp_path / "some" / "tensorboard").iterdir())
    logged(tmp_path / "none", ())
    assert not (tmp_path / "none" / "tensorboard").exists()
    assert json.loads((tmp_path / "none" / "log.jsonl").read_text().splitlines()[1])["em"] == 0.1


def test_a_logger_that_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(OptionError, match="no logger is called 'tensorbord'"):
        TrainConfig(loggers=("tensorbord",))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install wandb"):
        Loggers(("wandb",), RunOf(tmp_path, {}))
