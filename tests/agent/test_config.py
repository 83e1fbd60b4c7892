"""Bad options get one clear sentence, before anything is loaded."""

import json
from dataclasses import replace

import pytest

from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.ovd import OVD, Advantage
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.lora import LoraConfig
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.runs.config import EnvironmentConfig, RolloutConfig, TrainConfig
from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.scenarios import MATH


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"updates": 0}, "updates=0: expected at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"lora": LoraConfig(rank=4, merge=False)}, "lora.merge=False: expected vLLM"),
        ({"algorithm": "grpoo"}, "no algorithm is called 'grpoo': did you mean 'grpo'"),
        ({"algorithm": {"name": "ovd", "thresold": 3}}, "did you mean 'threshold'"),
        ({"algorithm": {"name": "ovd", "samples": "2"}}, "samples='2': expected an integer"),
        ({"algorithm": {"threshold": 3}}, 'expected a "name" in it'),
        ({"algorithm": OVD}, "expected a name"),
        ({"algorithm": "no.such:Thing"}, "there is no module 'no.such' here"),
        ({"algorithm": "json:Nothing"}, "json has no 'Nothing'"),
        ({"env": "ovd/WebQA-v9"}, "no environment 'ovd/WebQA-v9'"),
        ({"env": {"name": "ovd/WebQA-v0", "hop": [1]}}, "did you mean 'hops'"),
        ({"env": "ovd/Math-v0", "search": "somewhere"}, "ovd/Math-v0 has no option 'search'"),
        ({"teacher": "orcale"}, "no teacher is called 'orcale'"),
        ({"policy": "gpu"}, "no policy is called 'gpu'"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**options)


def test_a_temperature_that_explores_nothing_is_refused():
    with pytest.raises(ValueError, match=r"temperature=0.0: expected more than 0"):
        RolloutConfig(temperature=0.0)


def test_a_clip_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"clip_low=1.5: expected a number in \[0, 1\]"):
        PolicyGradient(clip_low=1.5)


def test_the_learner_is_checked():
    with pytest.raises(ValueError, match="minibatches=0: expected at least 1"):
        LearnerConfig(minibatches=0)


def test_a_part_is_the_same_by_name_by_mapping_and_as_an_object():
    by_name = TrainConfig(algorithm="ovd").record()
    assert TrainConfig(algorithm={"name": "ovd"}).record() == by_name
    assert TrainConfig(algorithm=OVD()).record() == by_name
    other = TrainConfig(algorithm={"name": "ovd", "advantage": {"baseline": "student"}}).record()
    assert other == TrainConfig(algorithm=OVD(advantage=Advantage(baseline="student"))).record()
    assert other != by_name


def test_teacher_and_search_engine_are_the_environments():
    plain = EnvironmentConfig()
    assert plain.environment().options.teacher == "oracle"
    assert EnvironmentConfig(teacher="none").environment().options.teacher is None
    chosen = EnvironmentConfig(teacher="openai:m@http://x/v1", search="folder").record()
    assert chosen["env"]["teacher"]["model"] == "m"
    assert chosen["env"]["search"] == {"name": "index", "path": "folder", "mode": None}
    held = EnvironmentConfig(env={"name": "ovd/Math-v0", "levels": [2]}).held_out(7)
    assert (held.options.split, held.options.count, held.options.levels) == ("test", 7, (2,))


def test_a_run_from_before_an_option_existed_is_resumed_with_its_default(tmp_path):
    out = tmp_path / "run"
    TrainConfig(out=out).save()
    older = json.loads((out / "config.json").read_text())
    del older["algorithm"]["accept_at_most"], older["lora"], older["env"]["hops"]
    (out / "config.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"with algorithm.accept_at_most=1.0, not 0.5"):
        TrainConfig(out=out, algorithm=OVD(accept_at_most=0.5)).save()
    with pytest.raises(ValueError, match=r"with lora.rank=0, not 16"):
        TrainConfig(out=out, lora=LoraConfig(rank=16)).save()
    with pytest.raises(ValueError, match=r"with env.hops=\[1, 2\], not \[1\]"):
        TrainConfig(out=out, env={"name": "ovd/WebQA-v0", "hops": [1]}).save()
    TrainConfig(out=out).save()
    assert json.loads((out / "config.json").read_text())["lora"]["rank"] == 0


def test_a_run_is_resumed_only_with_its_own_options(tmp_path):
    TrainConfig(out=tmp_path / "run").save()
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="was started with seed=0, not 1"):
        TrainConfig(out=tmp_path / "run", seed=1).save()
    with pytest.raises(ValueError, match=r"was started with algorithm.threshold=7.0, not 5.0"):
        TrainConfig(out=tmp_path / "run", algorithm=OVD(threshold=5.0)).save()
    with pytest.raises(ValueError, match=r"was started with algorithm='ovd', not 'grpo'"):
        TrainConfig(out=tmp_path / "run", algorithm=GRPO()).save()
    with pytest.raises(ValueError, match=r"with env.teacher={'name': 'oracle'.*}, not None"):
        TrainConfig(out=tmp_path / "run", teacher="none").save()
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    TrainConfig(out=tmp_path / "run", updates=100).save()  # a longer run goes on
    assert json.loads((tmp_path / "run" / "config.json").read_text())["updates"] == 100


def test_a_configuration_of_an_older_version_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"env": "ovd/WebQA-v0", "ovd": {"threshold": 7}}')
    with pytest.raises(ValueError, match="is of an older version"):
        TrainConfig(out=tmp_path).save()


@pytest.mark.parametrize("tasks", ["train.jsonl", [Task("a", "?", ("b",))]])
def test_training_tasks_without_held_out_ones_are_refused(tasks):
    config = EnvironmentConfig(env={"name": MATH, "tasks": tasks})
    with pytest.raises(OptionError, match=r"are for training: .*--eval-tasks FILE"):
        config.held_out(5)
    assert replace(config, eval_tasks="ovd/arithmetic-v1").held_out(5).options.tasks
