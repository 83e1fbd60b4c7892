"""Bad options get one clear sentence, before anything is loaded."""

import json

import pytest

from ovd_agent.algorithms.ovd import OVD
from ovd_agent.config import EnvironmentConfig, RolloutConfig, TrainConfig
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.lora import LoraConfig


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"updates": 0}, "updates=0: expected at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"lora": LoraConfig(rank=4, merge=False)}, "lora.merge=False: expected vLLM"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**options)


def test_a_temperature_that_explores_nothing_is_refused():
    with pytest.raises(ValueError, match=r"temperature=0.0: expected more than 0"):
        RolloutConfig(temperature=0.0)


@pytest.mark.parametrize("threshold", [-1, 10.5])
def test_a_threshold_outside_the_scores_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold=.*expected 0 .* to 10"):
        OVD(threshold=threshold)


def test_the_learner_is_checked():
    with pytest.raises(ValueError, match="minibatches=0: expected at least 1"):
        LearnerConfig(minibatches=0)


def test_math_does_not_search():
    with pytest.raises(ValueError, match="does not search"):
        EnvironmentConfig(search="somewhere").options("ovd/Math-v0", "train", 10)


def test_a_run_from_before_an_option_existed_is_resumed_with_its_default(tmp_path):
    out = tmp_path / "run"
    TrainConfig(out=out).save()
    older = json.loads((out / "config.json").read_text())
    del older["ovd"]["accept_at_most"], older["lora"]
    (out / "config.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match=r"with ovd.accept_at_most=1.0, not 0.5"):
        TrainConfig(out=out, ovd=OVD(accept_at_most=0.5)).save()
    with pytest.raises(ValueError, match=r"with lora.rank=0, not 16"):
        TrainConfig(out=out, lora=LoraConfig(rank=16)).save()
    TrainConfig(out=out).save()
    assert json.loads((out / "config.json").read_text())["lora"]["rank"] == 0


def test_a_run_is_resumed_only_with_its_own_options(tmp_path):
    TrainConfig(out=tmp_path / "run").save()
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="was started with seed=0, not 1"):
        TrainConfig(out=tmp_path / "run", seed=1).save()
    with pytest.raises(ValueError, match=r"was started with ovd.threshold=7.0, not 5.0"):
        TrainConfig(out=tmp_path / "run", ovd=OVD(threshold=5.0)).save()
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    TrainConfig(out=tmp_path / "run", updates=100).save()  # a longer run goes on
    assert json.loads((tmp_path / "run" / "config.json").read_text())["updates"] == 100
