"""TRL's GRPOTrainer plays our environments by our engine."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason='pip install -e ".[dev]"')
import trl

from ovd_agent.integrations.trl import dataset, environment_factory, reward, rollout_func
from ovd_agent.models import tiny_model
from ovd_agent.rollouts.rollout import Rollout
from ovd_envs.calibration.players import careless, play
from ovd_envs.registry import make_scenario

MATH = {"count": 8, "levels": (1,), "max_turns": 2}


def trainer(tmp_path, **options):
    model, tokenizer = tiny_model()
    arguments = trl.GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_steps=2,
        report_to="none", use_cpu=True, bf16=False, logging_steps=1, learning_rate=1e-3,
        gradient_checkpointing=False, max_completion_length=64, disable_tqdm=True,
    )  # fmt: skip
    played = rollout_func("ovd/Math-v0", tokenizer, max_new_tokens=8, max_length=600, **MATH)
    return trl.GRPOTrainer(
        model=model, processing_class=tokenizer, args=arguments,
        train_dataset=dataset("ovd/Math-v0", **MATH), reward_funcs=reward, rollout_func=played,
    ), played  # fmt: skip


def test_it_trains_for_real(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    made, _ = trainer(tmp_path)
    before = [each.detach().clone() for each in made.model.parameters()]
    made.train()
    log = [line for line in made.state.log_history if "reward" in line]
    assert len(log) == 2
    assert all(line["rewards/reward/mean"] == 0 for line in log)  # a random student
    assert all(a.equal(b) for a, b in zip(before, made.model.parameters(), strict=True))


def test_what_it_returns_is_what_was_played(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    made, played = trainer(tmp_path)
    prompts = made.train_dataset["prompt"][:2]
    found = played([prompts[0], prompts[0], prompts[1]], made)
    assert {len(column) for column in found.values()} == {3}
    assert found["prompt_ids"][0] == found["prompt_ids"][1] != found["prompt_ids"][2]
    for place in range(3):
        ids, mask = found["completion_ids"][place], found["env_mask"][place]
        assert len(ids) == len(mask) == len(found["logprobs"][place])
        assert set(mask) <= {0, 1}
    with pytest.raises(ValueError, match="make the data set with the same options"):
        played(["who?"], made)


def test_a_rollout_masks_what_the_environment_says():
    scenario, tasks = make_scenario("ovd/WebQA-v0", passages=200, count=4)
    rollout = Rollout(scenario, None, tiny_model()[1], max_length=4000)
    [episode] = play(scenario, tasks[:1], careless(scenario, 0.5), 0)
    shown = rollout.tokenized(episode)
    for index, segment in enumerate(shown.segments):  # as if a student had written it
        if segment.author == "teacher":
            shown.segments[index] = type(segment)(
                "student", segment.start, segment.end, segment.turn
            )
            shown.logprobs[segment.start : segment.end] = [-1.0] * (segment.end - segment.start)
    found = shown.as_rollout()
    assert found["prompt_ids"] + found["completion_ids"] == shown.ids
    assert sum(found["env_mask"]) == shown.written_tokens < len(found["env_mask"])
    assert [p for p, m in zip(found["logprobs"], found["env_mask"]) if not m] == [0.0] * found[
        "env_mask"
    ].count(0)
    assert found["reward"] == shown.reward
    episode.end_reason = "infrastructure"
    assert shown.as_rollout()["reward"] is None


def test_tools_play_an_episode_and_nothing_else_is_offered():
    options = {"passages": 200, "count": 4, "max_turns": 3}
    rows = dataset("ovd/WebQA-v0", tools=True, **options)
    _, tasks = make_scenario("ovd/WebQA-v0", **options)
    assert rows["task_id"][:4] == [task.id for task in tasks]
    assert rows["prompt"][0][0]["role"] == "user"
    factory = environment_factory("ovd/WebQA-v0", **options)
    one, other = factory(), factory()
    offered = {name for name in dir(factory) if not name.startswith("_")}
    assert offered == {"reset", "search", "answer", "get_reward"}
    for env, given, earned in ((one, tasks[0].answers[0], 1.0), (other, "nobody", 0.0)):
        env.reset(task_id=tasks[0].id, prompt="p")
        assert "<information>" in env.search(tasks[0].metadata["chain"][0]["query"])
        env.answer(given)
        assert env.get_reward() == earned
        assert env.search("more") == "The episode is over."
    one.reset(task_id=tasks[1].id)
    assert one.get_reward() == 0.0
