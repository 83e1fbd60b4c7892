"""A model in this process that demonstrates."""

from __future__ import annotations

import pytest

from ovd_agent.cli.main import main
from ovd_agent.models import tiny_model
from ovd_agent.player import ModelPlayer
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.encoding import decode_action, encode
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.runs.logs import read_log
from ovd_envs.calibration.players import oracle, play
from ovd_envs.errors import OptionError

LENGTH, TOKENS = 4000, 12


@pytest.fixture(scope="module")
def student():
    model, tokenizer = tiny_model()
    policy = TorchPolicy(model, tokenizer, slots=8, max_length=LENGTH)
    policy.weights_changed(0)
    return policy, tokenizer


@pytest.fixture
def player(webqa):
    stop = webqa[0].stop_strings
    return ModelPlayer("tiny", stop=stop, slots=4, max_length=LENGTH, max_new_tokens=TOKENS)


def test_it_begins_as_the_student_would(webqa, student, player):
    (scenario, tasks), (policy, tokenizer) = webqa, student
    rollout = Rollout(scenario, policy, tokenizer, max_length=LENGTH, max_new_tokens=TOKENS)
    played = rollout.play(tasks[:6], temperature=0.0)
    expected = [each.episode.turns[0].action for each in played]
    assert player.act(scenario.begin(tasks[:6])) == expected
    assert len(set(expected)) > 1 or all(expected)


def test_it_goes_on_as_the_student_would(webqa, student, player):
    (scenario, tasks), (policy, tokenizer) = webqa, student
    rollout = Rollout(scenario, policy, tokenizer)
    shown = play(scenario, tasks[:5], oracle(scenario), 0)
    begun = [scenario.resume(episode, 1) for episode in shown]
    for key, episode in enumerate(begun):
        ids = rollout.tokenized(episode).ids + encode(tokenizer, episode.turns[0].observation)
        policy.submit(key, ids, Sampling(0.0, 1.0, TOKENS, scenario.stop_strings))
    done = dict(policy.collect(len(begun)))
    for key in done:
        policy.release(key)
    assert player.act(begun) == [decode_action(tokenizer, done[key].ids) for key in range(5)]
    assert player.act([]) == []


def test_an_episode_that_does_not_fit_is_not_played_on(webqa, player):
    scenario, tasks = webqa
    short = ModelPlayer("tiny", max_length=len(tasks[0].prompt) // 8, max_new_tokens=TOKENS)
    assert short.act(scenario.begin(tasks[:2])) == ["", ""]


def test_further_tries_are_sampled_by_their_seeds_alone(webqa, player):
    scenario, tasks = webqa
    greedy, first, second = (
        player.act(scenario.begin(tasks[:4], [seed] * 4)) for seed in (0, 1, 2)
    )
    assert len({*greedy, *first, *second}) > len({*greedy})
    assert first != second
    assert player.act(scenario.begin(tasks[:4], [1] * 4)) == first
    mixed = player.act(scenario.begin(tasks[:2] * 2, [0, 0, 1, 1]))
    assert mixed[:2] == greedy[:2]
    assert mixed[2:] != greedy[:2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, "temperature=-1: expected at least 0"),
        ({"slots": 0}, "expected at least 1"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(OptionError, match=said):
        ModelPlayer("tiny", **options)


def test_a_run_whose_demonstrator_is_a_model(tmp_path, capsys):
    command = ["train", "--student", "tiny", "--tasks-per-update", "2", "--eval-count", "2"]
    command += ["--updates", "1", "--rollout.max-new-tokens", "8", "--out", str(tmp_path)]
    command += ["--demonstrator", "ovd_agent.player:ModelPlayer"]
    with pytest.raises(SystemExit):
        main(command)
    assert "--demonstrator.model" in capsys.readouterr().err
    assert main([*command, "--demonstrator.model", "tiny"]) == 0
    [line] = read_log(tmp_path / "log.jsonl")
    assert line["demonstrations_failed"] == 2  # random weights show nothing that is right
    assert line["teacher"]["scores"] > 0  # by the oracle
