"""The command line: parts by name, their options, presets, and what a run's folder says."""

import errno
import json
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovd_agent.cli import main
from ovd_agent.cli.parse import field_help, parse
from ovd_agent.cli.run_folder import options_of_run
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.presets import preset_names, read_preset, take_preset
from ovd_envs.errors import OptionError

ROOT = Path(__file__).parents[2]


def parsed(*words, defaults=None):
    return parse(TrainConfig, words, "", defaults)


def shown(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main.main([*words, "--help"])
    assert ended.value.code == 0
    return re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().out)


def test_without_options_it_is_the_configuration_of_python():
    assert parsed().record() == TrainConfig().record()


def test_the_defaults_are_those_of_the_demo():
    """Two samples of 16 tasks, no baseline, a rate that falls by update, one invalid action."""
    record = TrainConfig().record()
    algorithm, environment = record["algorithm"], record["env"]
    assert (algorithm["samples"], record["tasks_per_update"], record["updates"]) == (2, 16, 12)
    assert algorithm["advantage"]["baseline"] == "none"
    assert record["learner"]["decay"] == "linear"
    assert environment["max_invalid"] == 1
    demo = parsed(defaults=read_preset("demo")).record()
    differing = {name for name in record if record[name] != demo[name]}
    assert differing == {"out", "env"}
    assert environment | {"world_seed": 2} == demo["env"]


def test_options_follow_the_part_that_is_chosen():
    config = parsed(
        *("--algorithm", "grpo", "--algorithm.samples", "6", "--algorithm.policy.kl", "0.5"),
        *("--env", "ovd/Math-v0", "--env.levels", "1", "2", "--env.max-invalid", "None"),
        *("--teacher.no-thinks-aloud", "--updates", "3"),
    )
    record = config.record()
    assert record["algorithm"]["name"] == "grpo"
    assert record["algorithm"]["samples"] == 6
    assert record["algorithm"]["policy"]["kl"] == 0.5
    assert record["env"]["name"] == "ovd/Math-v0"
    assert record["env"]["levels"] == [1, 2]
    assert record["env"]["max_invalid"] is None
    assert record["env"]["teacher"] == {
        "name": "oracle",
        "thinks_aloud": False,
        "judges_plans": True,
    }
    assert record["updates"] == 3


def test_every_option_of_the_language_model_teacher_is_reachable():
    words = {
        "--teacher.shows-answer": None,
        "--teacher.shows-plan": None,
        "--teacher.concurrency": "3",
        "--teacher.try-seconds": "4.5",
        "--teacher.total-seconds": "9",
        "--teacher.max-missing": "0.5",
        "--teacher.cache": "answers",
        "--teacher.score-tokens": "5",
        "--teacher.action-tokens": "99",
        "--teacher.temperature": "0.1",
    }
    flat = [word for pair in words.items() for word in pair if word is not None]
    teacher = parsed("--teacher", "openai:m@http://h:1/v1", *flat).record()["env"]["teacher"]
    assert teacher == {
        "name": "openai",
        "model": "m",
        "base_url": "http://h:1/v1",
        "shows_answer": True,
        "shows_plan": True,
        "concurrency": 3,
        "try_seconds": 4.5,
        "total_seconds": 9.0,
        "max_missing": 0.5,
        "cache": "answers",
        "score_tokens": 5,
        "action_tokens": 99,
        "temperature": 0.1,
    }
    again = parsed("--teacher", "openai", "--teacher.model", "m").record()["env"]["teacher"]
    assert (again["model"], again["concurrency"]) == ("m", 16)


@pytest.mark.parametrize("words", [("--teacher=none",), ("--teacher", "none")])
def test_nobody_may_be_the_teacher(words):
    assert parsed(*words).record()["env"]["teacher"] is None


@pytest.mark.parametrize("search", ["folder", "http://h:1", "qdrant://h/c"])
def test_a_search_engine_is_a_folder_or_an_address(search):
    found = parsed("--search", search).record()["env"]["search"]
    assert search in found.values()


def test_the_policy_is_a_part_too():
    record = parsed("--policy", "http://a:1, http://b:2").record()
    assert record["policy"] == {"name": "http", "urls": ["http://a:1", "http://b:2"]}
    with pytest.raises(OptionError, match="policy='b': expected http"):
        parsed("--policy", "http://a:1,b")


def test_help_shows_the_options_of_the_parts_that_are_chosen(capsys):
    text = shown(capsys, "train")
    assert "--algorithm.threshold FLOAT θ: a trajectory that scores below it is rejected" in text
    assert "--env.hops" in text
    assert "--teacher.concurrency INT" not in text
    text = shown(
        capsys, "train", "--algorithm", "grpo", "--env", "ovd/Math-v0", "--teacher", "openai:m"
    )
    assert "--algorithm.threshold FLOAT" not in text
    assert "--algorithm.divide-by-std" in text
    assert "--env.levels" in text
    assert "--teacher.concurrency INT Concurrent requests." in text


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_every_command_has_help(capsys, command):
    assert "--help" in shown(capsys, *command.split())


def test_every_option_has_a_line_of_help():
    for cls in (
        TrainConfig,
        *(type(getattr(TrainConfig(), name)) for name in ("learner", "rollout")),
    ):
        missing = set(cls.__dataclass_fields__) - field_help(cls).keys()
        assert missing <= {"rollout", "learner", "lora", "demonstrations"}, cls


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_a_configuration_and_each_line_says_whose_it_is(name):
    config = parsed(defaults=read_preset(name))
    assert config.record()["algorithm"]["name"] == "ovd"
    text = (ROOT / f"ovd_agent/runs/presets/{name}.toml").read_text()
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            assert "# ours" in line or "# the paper" in line, line


def test_the_command_line_goes_before_the_preset():
    preset, rest = take_preset(["--preset", "paper", "--algorithm.samples", "3"])
    record = parsed(*rest, defaults=read_preset(preset)).record()
    assert (record["algorithm"]["samples"], record["algorithm"]["policy"]["kl"]) == (3, 0.001)
    # Another algorithm has none of the preset's options.
    other = parsed("--algorithm", "sft", defaults=read_preset("paper")).record()
    assert other["algorithm"] == {"name": "sft"}


def test_a_preset_may_be_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text('updates = 4\n[env]\nname = "ovd/Math-v0"\nlevels = [3]\n')
    record = parsed(defaults=read_preset(str(tmp_path / "mine.toml"))).record()
    assert (record["updates"], record["env"]["levels"]) == (4, [3])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("updates = ", "not TOML"),
        ("update = 3", "the preset has no option 'update': did you mean 'updates'"),
        ('[algorithm]\nname = "ovd"\nthreshhold = 3', "did you mean 'threshold'"),
        ('updates = "3"', "updates='3': expected an integer"),
        ("[learner]\nrate = 3", "learner has no option 'rate'"),
    ],
)
def test_a_bad_preset_is_one_sentence(tmp_path, text, said):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(OptionError, match=said):
        parsed(defaults=read_preset(str(tmp_path / "bad.toml")))
    with pytest.raises(OptionError, match="no preset is called 'dem': did you mean 'demo'"):
        read_preset("dem")


def test_a_runs_folder_says_what_its_student_plays(tmp_path):
    run = tmp_path / "run"
    env = {"name": "ovd/WebQA-v0", "world_seed": 5, "hops": [2]}
    TrainConfig(out=run, env=env, teacher="none").save()
    (run / "checkpoints").mkdir()
    for student in (run, run / "best"):
        found = options_of_run(["--student", str(student)])
        assert (found["env"]["world_seed"], found["env"]["hops"]) == (5, [2])
        assert found["env"]["teacher"] is None
        assert found["rollout"]["max_new_tokens"] == 38
    assert options_of_run(["--student", "smollm2"]) == {}
    assert options_of_run([]) == {}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 0, "usage: ovd COMMAND"),
        (("--version",), 0, "0."),
        (("fly",), 2, "ovd has no command 'fly'"),
        (("train", "--env", "me/Code-v0"), 2, "no environment 'me/Code-v0'"),
        (("evaluate", "--search", "nowhere"), 2, "nowhere holds no index"),
        (("calibrate", "--search", "nowhere"), 2, "nowhere holds no index"),
        (("demonstrate", "--pool", "p", "--search", "nowhere"), 2, "nowhere holds no index"),
        (("play", "--search", "nowhere"), 2, "nowhere holds no index"),
        (("train", "--search", "nowhere"), 2, "nowhere holds no index"),
        (("index", "update", "--index", "nowhere", "--delete", "x"), 2, "nowhere holds no index"),
        (("index", "evaluate", "--index", "nowhere", "--queries", "q"), 2, "nowhere holds no"),
        (("calibrate", "--teacher", "orcale"), 2, "no teacher is called 'orcale'"),
        (("compare", "--plan", "none.toml"), 2, "no such file"),
        (("report", "nowhere"), 2, "nowhere is not a finished run"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(capsys, tmp_path, monkeypatch, words, status, said):
    monkeypatch.chdir(tmp_path)
    assert main.main(words) == status
    found = capsys.readouterr()
    assert said in found.out + found.err
    if status:
        assert len(found.err.strip().splitlines()) == 1 or words == ("fly",)


def test_an_unknown_option_is_status_2():
    with pytest.raises(SystemExit) as ended:
        main.main(["train", "--algorithm.thresholds", "3"])
    assert ended.value.code == 2


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.name)
def test_a_script_is_a_few_lines(script):
    assert len(script.read_text().splitlines()) < 12


def test_a_script_is_the_command():
    words = [sys.executable, str(ROOT / "scripts/train.py"), "--env", "me/Code-v0"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr[:28]) == (2, "no environment 'me/Code-v0' ")


@dataclass(frozen=True)
class Documented:
    """Fields in several forms."""

    plain: int = 1
    """Of one
    sentence."""
    without: int = 2
    last: str = "x"
    """The end."""


def test_the_text_under_a_field_is_its_help():
    assert field_help(Documented) == {"plain": "Of one sentence.", "last": "The end."}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            r"is full \(a/b\): free",
        ),
        (RuntimeError('IoError(Os { message: "No space left on device" })'), "the disk is full:"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), r"cannot be written \(a/b\): Read-"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "choose another folder"),
    ],
)
def test_a_full_disk_and_a_folder_that_cannot_be_written_are_one_sentence(
    monkeypatch, capsys, error, sentence
):
    def fails(arguments):
        raise error

    monkeypatch.setattr("ovd_agent.cli.report.main", fails)
    assert main.main(["report"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(sentence, lines[0])


def test_other_errors_stay_visible(monkeypatch):
    def fails(arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("ovd_agent.cli.report.main", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main.main(["report"])


def test_a_build_on_a_full_disk_leaves_one_sentence(tmp_path):
    """A limit of the size of files is as a full disk."""
    corpus = tmp_path / "corpus.jsonl"
    lines = ({"id": str(n), "title": f"T {n}", "text": f"text {n} " * 20} for n in range(500))
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [sys.executable, "-m", "ovd_agent.cli.main", "index", "build", "--corpus", str(corpus)]
    words += ["--out", str(tmp_path / "index"), "--encoder", "hashing"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    ended = subprocess.run(words, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "the disk is full" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_level_of_logging_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("OVD_LOG", "loud")
    with pytest.raises(SystemExit, match="OVD_LOG='loud': expected debug, info, warning or error"):
        main.main(["doctor"])
