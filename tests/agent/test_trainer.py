"""Whole runs with a random student: what is written, and that a stopped run goes on as if it
had not been stopped."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from student_server import StudentServer

from ovd_agent.algorithms.base import Needs
from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.algorithms.rows import PolicyTerm, policy_row
from ovd_agent.learner.checkpoint import latest_checkpoint
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.learner.references import Wants
from ovd_agent.lora import LoraConfig
from ovd_agent.models import compute_dtype, student_path, tiny_model
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.rollouts.encoding import encode_prompt
from ovd_agent.runs import trainer as trainer_module
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_agent.runs.evaluate import summarise
from ovd_agent.runs.logs import read_log
from ovd_agent.runs.trainer import Trainer
from ovd_envs.episode import Task, VerbalScore
from ovd_envs.errors import OptionError
from retrieval_index.files import locked

REPOSITORY = Path(__file__).parents[2]
INCIDENTAL = ("seconds", "teacher_seconds", "tokens_per_second", "peak_memory_mb")


@pytest.fixture
def folder(student, tokenizer, tmp_path):
    """A random student on disk."""
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path


SERVED = "openai:teacher@http://127.0.0.1:9/v1"


ENV = {"name": "ovd/Math-v0", "count": 20, "levels": (1, 2), "max_turns": 3}


def small(folder, name, **options):
    defaults = {
        "env": ENV,
        "student": str(folder / "student"),
        "out": folder / name,
        "updates": 4,
        "tasks_per_update": 3,
        "eval_count": 5,
        "rollout": RolloutConfig(max_new_tokens=8, slots=8, max_length=900),
        "checkpoint_every": 1,
        "algorithm": OVD(),
    }
    return TrainConfig(**defaults | options)


def what_happened(out):
    updates = read_log(out / "log.jsonl")
    for record in updates:
        for name in INCIDENTAL:
            record.pop(name)
    evaluations = read_log(out / "eval.jsonl")
    for record in evaluations:
        record.pop("seconds")
    return updates, evaluations


def weights(out):
    return load_file(latest_checkpoint(out / "checkpoints") / "model.safetensors")


def assert_same_run(one, other):
    assert what_happened(one) == what_happened(other)
    first, second = weights(one), weights(other)
    assert all(first[name].equal(second[name]) for name in first)


def test_a_run_leaves_all_it_promises(folder):
    summary = Trainer(small(folder, "run")).run()
    out = folder / "run"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert len(summary["acceptance"]) == summary["updates"] == 4
    updates, evaluations = what_happened(out)
    assert [record["update"] for record in evaluations] == [0, 4]
    assert summary["em_after"] == evaluations[-1]["em"]
    assert summary["score_calls"] == sum(line["teacher"]["scores"] for line in updates)
    assert summary["demonstrations"] == 4 * 3
    tasks = Trainer(small(folder, "other")).parts.tasks
    assert summary["distinct_tasks"] == min(4 * 3, len(tasks))
    assert summary["distinct_demonstrations"] == summary["distinct_tasks"]
    # The teacher judges the student's steps, and not its own.
    for line in updates:
        assert line["teacher"]["scores"] == sum(line["score_histogram"])
        assert line["teacher"]["actions"] >= line["demonstrations"]
    assert summary["teacher_seconds"].keys() == {"judging", "acting"}
    assert (out / "report.html").stat().st_size > 0
    assert summary["optimizer_steps"] > 0
    peaks = [line["peak_memory_mb"] for line in read_log(out / "log.jsonl")]
    assert summary["peak_memory_mb"] == max(peaks) > 0
    for name in ("config.json", "episodes_before.jsonl", "episodes_after.jsonl"):
        assert (out / name).stat().st_size > 0
    # The random student answers nothing: all is replaced, and the cross-entropy falls.
    assert [record["acceptance"] for record in updates] == [0.0] * 4
    assert updates[-1]["ce_loss"] < updates[0]["ce_loss"]
    assert summary["teacher_tokens"] > 0
    assert not list(out.rglob("*.tmp"))
    # Of each update a rejected play beside what replaced it.
    rejections = read_log(out / "rejections.jsonl")
    assert [record["update"] for record in rejections] == [0, 1, 2, 3]
    for record in rejections:
        assert record["score"] < record["threshold"] == 7.0
        assert record["rejected"]["task"] == record["replacement"]["task"]
        assert record["replacement"]["exact_match"] == 1.0
    assert all(len(line["trajectory_scores"]) == 6 for line in updates)


def test_a_run_whose_episodes_do_not_fit_says_so(folder, capsys):
    parts = Trainer(small(folder, "fits")).parts
    prompts = [parts.rollout.scenario.prompt(task) for task in [*parts.tasks, *parts.held_out]]
    longest = max(len(encode_prompt(parts.tokenizer, prompt)) for prompt in prompts)
    short = RolloutConfig(max_new_tokens=8, slots=8, max_length=longest + 20)
    Trainer(small(folder, "cut", rollout=short)).run()
    updates, _ = what_happened(folder / "cut")
    assert all(record["ends"] == {"length_limit": 6} for record in updates)
    said = " ".join(capsys.readouterr().out.split())
    assert f"update 1: 100% of the episodes outgrew rollout.max_length={longest + 20} tok" in said


@pytest.mark.parametrize("spare", [0, -1])
def test_a_demonstration_longer_than_the_student_may_play_is_none(folder, spare):
    trainer = Trainer(small(folder, "run", env=ENV | {"count": 1}))
    [shown] = trainer.parts.demonstrations.demonstrate(trainer.parts.tasks)
    length = len(trainer.parts.rollout.tokenized(shown).ids)
    trainer.collector.config = replace(
        trainer.config, rollout=RolloutConfig(max_length=length + spare)
    )
    assert trainer.step()["demonstrations_failed"] == -spare


@pytest.mark.parametrize(
    "options",
    [{}, {"lora": LoraConfig(4)}, {"learner": LearnerConfig(weights="bfloat16")}],
    ids=["weights", "adapters", "masters"],
)
def test_a_stopped_run_goes_on_with_the_same_next_batch(folder, options):
    Trainer(small(folder, "whole", **options)).run()
    stopped = Trainer(small(folder, "parts", **options))
    step = stopped.step

    def stops():
        if stopped.update == 2:
            raise KeyboardInterrupt
        return step()

    stopped.step = stops
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    Trainer(small(folder, "parts", **options)).run()
    updates, _ = what_happened(folder / "parts")
    assert updates == what_happened(folder / "whole")[0]
    whole, parts = weights(folder / "whole"), weights(folder / "parts")
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_a_finished_run_is_not_trained_further(folder):
    first = Trainer(small(folder, "run")).run()
    before = weights(folder / "run")
    again = Trainer(small(folder, "run")).run()
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    after = weights(folder / "run")
    assert all(before[name].equal(after[name]) for name in before)


def test_kill_9_loses_nothing_that_a_checkpoint_holds(folder):
    config = small(folder, "killed", updates=6)
    options = [
        *("--env", "ovd/Math-v0", "--student", config.student, "--out", str(config.out)),
        *("--updates", "6", "--tasks-per-update", "3", "--env.count", "20"),
        *("--env.levels", "1", "2", "--env.max-turns", "3", "--rollout.max-length", "900"),
        *("--eval-count", "5", "--rollout.max-new-tokens", "8", "--rollout.slots", "8"),
        *("--checkpoint-every", "1"),
    ]
    script = str(REPOSITORY / "scripts" / "train.py")
    process = subprocess.Popen(
        [sys.executable, script, *options], stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = config.out / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    Trainer(config).run()
    Trainer(small(folder, "whole", updates=6)).run()
    assert_same_run(folder / "killed", folder / "whole")


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_the_baselines_run(folder, algorithm):
    chosen = GRPO(samples=2) if algorithm == "grpo" else algorithm
    Trainer(small(folder, algorithm, algorithm=chosen, updates=2)).run()
    updates, _ = what_happened(folder / algorithm)
    assert len(updates) == 2
    if algorithm == "sft":
        assert updates[0]["student_tokens"] == 0
        assert updates[1]["ce_loss"] < updates[0]["ce_loss"]
    else:
        assert updates[0]["teacher_tokens"] == 0
        assert updates[0]["ce_loss"] == 0


@pytest.mark.parametrize("algorithm", ["ovd_continue", "ovd_rank"])
def test_continuations_are_counted_and_come_out_the_same_again(folder, algorithm):
    config = {"algorithm": {"name": algorithm, "samples": 2}, "env": ENV | {"max_invalid": None}}
    Trainer(small(folder, "whole", updates=2, **config)).run()
    Trainer(small(folder, "again", updates=2, **config)).run()
    updates, _ = what_happened(folder / "whole")
    assert updates == what_happened(folder / "again")[0]
    for line in updates:
        assert line["continued"] == 6  # a student of random weights writes no good step
        assert line["continuations_failed"] == 0
        assert line["kept_turns"] == 0
        assert line["repaired"] == 1.0
        assert line["teacher_tokens"] > 0
        assert line["optimizer_steps"] > 0
        assert line["accepted_em"] is None


def test_other_options_are_refused_by_name(folder):
    Trainer(small(folder, "run", updates=1)).run()
    with pytest.raises(ValueError, match="was started with seed=0, not 5"):
        Trainer(small(folder, "run", updates=1, seed=5)).run()


def test_a_checkpoint_of_another_model_is_refused(folder):
    Trainer(small(folder, "run", updates=1)).run()
    other, tokenizer = tiny_model(num_hidden_layers=3)
    other.save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    (folder / "run" / "config.json").unlink()
    config = small(folder, "run", student=str(folder / "other"), updates=1)
    with pytest.raises(ValueError, match=r"holds another model: its num_hidden_layers is 2, but"):
        Trainer(config).run()


class EverySample:
    """Raises the probability of all that was sampled."""

    needs = Needs(samples=2)

    def rows(self, group, context):
        return [policy_row(each, [1.0] * len(each.episode.turns)) for each in group.samples]


SERVED_RUN = {
    "algorithm": EverySample(),
    "rollout": RolloutConfig(max_new_tokens=4, max_length=900),
}


@pytest.mark.parametrize(
    ("teacher", "asked", "overlaps"),
    [("oracle", None, False), ("oracle", True, True), (SERVED, None, True), (SERVED, False, False)],
)
def test_scoring_overlaps_with_sampling_where_the_teacher_is_a_server(
    folder, teacher, asked, overlaps
):
    config = small(folder, "run")
    rollout = replace(config.rollout, overlap=asked)
    parts = assemble(replace(config, teacher=teacher, rollout=rollout))
    assert parts.rollout.overlap is overlaps


@pytest.mark.parametrize(
    ("teacher", "asked", "scored"),
    [("oracle", None, True), ("oracle", False, False), (SERVED, None, False), (SERVED, True, True)],
)
def test_held_out_play_costs_no_scores_of_a_server(folder, teacher, asked, scored):
    config = small(folder, "run", eval_scored=asked)
    parts = assemble(replace(config, teacher=teacher, env=ENV | {"reward": "verbal"}))
    assert parts.rollout.scenario.teacher is not None
    assert (parts.evaluation.scenario.teacher is not None) is scored


def test_grades_of_held_out_play_are_the_same_unscored(folder):
    """Of one who answers rightly, wrongly and not at all, by turns."""
    graded = []
    for scored in (True, False):
        parts = assemble(small(folder, "run", eval_scored=scored))
        scenario = parts.evaluation.scenario
        episodes = scenario.begin(parts.held_out)
        right = [task.answers[0] for task in parts.held_out]
        actions = [
            (f"<answer>{answer}</answer>", "<answer>no</answer>", "well")[place % 3]
            for place, answer in enumerate(right)
        ]
        scenario.advance(episodes, actions)
        assert any(turn.score for each in episodes for turn in each.turns) is scored
        graded.append(summarise(episodes))
    assert graded[0] == graded[1]
    assert 0 < graded[0]["em"] < 1


def test_an_adaptive_algorithm_sees_the_whole_update_first(folder):
    class Wary:
        """Asks for nothing and trains on nothing, unless it is asked to adapt."""

        needs, rows = Needs(samples=2), print
        seen: ClassVar[list[int]] = []

        def adapted(self, samples, context):
            self.seen.append(len(samples))
            return EverySample()

    Trainer(small(folder, "run", updates=2, algorithm=Wary())).run()
    assert Wary.seen == [6, 6]
    updates, _ = what_happened(folder / "run")
    assert [record["acceptance"] for record in updates] == [1.0, 1.0]


@pytest.mark.parametrize(("theta", "says"), [(9, True), (7, False), (10, False)])
def test_a_threshold_that_rejects_what_is_right_is_named(
    folder, capsys, monkeypatch, theta: float, says: bool
):
    trainer = Trainer(small(folder, "run", updates=1, algorithm=OVD(threshold=theta)))
    scenario = trainer.parts.rollout.scenario
    advance = scenario.advance

    def always_right(episodes, actions):
        turns = advance(episodes, actions)
        for episode, turn in zip(episodes, turns, strict=True):
            episode.exact_match, turn.score = 1.0, VerbalScore(9, 8.0, source="test")
        return turns

    monkeypatch.setattr(scenario, "advance", always_right)
    trainer.run()
    said = " ".join(capsys.readouterr().out.split())
    warned = (
        "100% of the samples are right, but 0% were accepted: θ=9 is more than this teacher gives"
    )
    assert (f"{warned} (8.0 a step on average)" in said) == says


def test_a_run_over_servers_publishes_every_update(folder, serve):
    servers = [serve() for _ in range(2)]
    policy = ",".join(server.url for server in servers)
    Trainer(small(folder, "run", updates=2, **SERVED_RUN, policy=policy)).run()
    updates = read_log(folder / "run" / "log.jsonl")
    # The servers compute in float32, the learner in what is fast on this processor.
    rounding = 1e-4 if compute_dtype(torch.device("cpu")) == torch.float32 else 1e-2
    assert [update["servers"] for update in updates] == [2, 2]
    for update in updates:
        assert update["probe"] < 1e-4
        assert 0 < update["gap"] < rounding
        assert update["kl_behaviour"] > 1e-9  # the learner moved on, with more than one step
    for server in servers:  # at the beginning and after each update
        assert [Path(each).name for each in server.published] == [
            f"version-{steps}"
            for steps in (0, *itertools.accumulate(int(u["optimizer_steps"]) for u in updates))
        ]


def test_log_probabilities_of_another_policy_stop_the_run(folder, serve):
    class Wrong(StudentServer):
        def complete(self, body):
            choice = super().complete(body)
            found = choice["logprobs"]["token_logprobs"]
            return choice | {"logprobs": {"token_logprobs": [each - 0.5 for each in found]}}

    policy = serve(kind=Wrong).url
    with pytest.raises(PolicyUnavailable, match=r"differ from the learner's by 0\.5 a sampled"):
        Trainer(small(folder, "run", **SERVED_RUN, policy=policy)).run()


class Remembering(EverySample):
    """Counts its updates; logs the count and what it is told of the update."""

    def __init__(self):
        self.count = 0

    def adapted(self, samples, context):
        self.count += 1
        context.log("count", self.count)
        context.log("told", context.update * 100 + context.updates + context.score_levels / 1000)
        assert context.tokenizer.eos_token_id is not None
        return self

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_an_algorithm_has_its_own_figures_and_its_own_state_in_checkpoints(folder):
    for updates in (2, 3):  # stopped after two, and resumed by a new object
        Trainer(small(folder, "run", updates=updates, algorithm=Remembering())).run()
    updates, _ = what_happened(folder / "run")
    assert [record["count"] for record in updates] == [1, 2, 3]
    assert [record["told"] for record in updates] == [2.01, 102.01, 203.01]


def test_a_resumed_run_says_so_and_another_algorithm_is_refused(folder, capsys):
    Trainer(small(folder, "run", updates=1, algorithm=EverySample())).run()
    capsys.readouterr()
    Trainer(small(folder, "run", updates=2, algorithm=EverySample())).run()
    assert "after update 1 of 2" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(OptionError, match=r"algorithm='.*:EverySample', not 'ovd'"):
        Trainer(small(folder, "run", updates=2)).run()


def test_the_best_weights_by_held_out_play_are_kept(folder, monkeypatch):
    found = iter([0.1, 0.2, 0.6, 0.3, 0.3])
    real = trainer_module.evaluate

    def evaluated(*arguments, **options):
        result, trajectories = real(*arguments, **options)
        return result | {"em": next(found)}, trajectories

    monkeypatch.setattr(trainer_module, "evaluate", evaluated)
    config = small(folder, "run", updates=4, eval_every=1, checkpoint_every=10)
    Trainer(config).run()
    checkpoints = folder / "run" / "checkpoints"
    best = checkpoints / (checkpoints / "best").read_text()
    assert json.loads((best / "state.json").read_text())["update"] == 2
    assert json.loads((latest_checkpoint(checkpoints) / "state.json").read_text())["update"] == 4
    assert student_path(str(folder / "run" / "best")) == str(best)
    assert student_path(str(folder / "run")) == str(latest_checkpoint(checkpoints))


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_reference_is_asked_only_where_an_algorithm_needs_it(folder, kl):
    algorithm = GRPO(samples=2, policy=PolicyTerm(kl=kl))
    trainer = Trainer(small(folder, "run", updates=2, algorithm=algorithm))
    assert list(trainer.parts.references) == (["start"] if kl else [])
    trainer.run()
    updates, _ = what_happened(folder / "run")
    assert updates[0]["kl_loss"] == pytest.approx(0, abs=1e-6)  # it still is the reference
    assert (updates[1]["kl_loss"] > 0) == bool(kl and updates[0]["optimizer_steps"])


class Towards(EverySample):
    """Pulls towards another model than the one the run began with."""

    def __init__(self, model):
        wants = Wants("kl", model)
        self.needs = Needs(samples=2, references={"start": wants})

    def rows(self, group, context):
        return [policy_row(s, [0.0] * len(s.episode.turns), kl=0.1) for s in group.samples]


def test_a_reference_may_be_another_model_with_the_same_tokenizer(folder):
    other, tokenizer = tiny_model(seed=5)
    other.save_pretrained(folder / "other")
    tokenizer.save_pretrained(folder / "other")
    algorithm = Towards(str(folder / "other"))
    Trainer(small(folder, "run", updates=2, algorithm=algorithm)).run()
    updates, _ = what_happened(folder / "run")
    assert updates[0]["kl_loss"] > 1e-4
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(folder / "other")
    with pytest.raises(OptionError, match="has another tokenizer than the student"):
        Trainer(small(folder, "again", updates=2, algorithm=algorithm))


def test_two_processes_do_not_train_in_one_folder(folder):
    config = small(folder, "run")
    with (
        locked(config.out / ".lock", OptionError("held")),
        pytest.raises(OptionError, match="another process is training in"),
    ):
        Trainer(config).run()
    Trainer(config).run()  # it lets go


def test_a_run_in_which_nothing_is_trained_says_so_once_and_in_its_summary(folder, capsys):
    config = small(folder, "run", algorithm=GRPO(samples=2), updates=3)
    summary = Trainer(config).run()  # a random student earns nothing: all rewards are equal
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("nothing was trained: no token had a gradient (no reward differed") == 1
    assert summary["untrained_updates"] == 3


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_played(folder):
    tasks = [
        Task(f"t{n}", "What is 1 and 1?" + " please" * (300 * (n == 7)), ("2",)) for n in range(9)
    ]
    env = {"name": "ovd/Math-v0", "tasks": tasks}
    config = small(folder, "run", env=env, eval_tasks=tasks[:2])
    with pytest.raises(
        OptionError, match=r"the prompt of task 't7' has \d+ tokens: expected fewer"
    ):
        assemble(config)


@pytest.mark.parametrize("content", ["", "checkpoint-000009", "\n"])
def test_an_empty_or_wrong_pointer_falls_back_to_the_newest_checkpoint(folder, content):
    Trainer(small(folder, "run", updates=2)).run()
    checkpoints = folder / "run" / "checkpoints"
    newest = latest_checkpoint(checkpoints)
    (checkpoints / "latest").write_text(content)
    assert latest_checkpoint(checkpoints) == newest


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_policy_and_learner_share_the_temperature(folder, temperature):
    """The learner finds the log-probabilities at which the tokens were sampled."""
    rollout = RolloutConfig(max_new_tokens=8, max_length=900, temperature=temperature)
    config = small(folder, "run", updates=1, algorithm=EverySample(), rollout=rollout)
    Trainer(config).run()
    [update], _ = what_happened(folder / "run")
    assert 0 < update["entropy"] < 6
    rounding = 1e-4 if compute_dtype(torch.device("cpu")) == torch.float32 else 3e-2
    assert update["gap"] < rounding


def test_a_resumed_run_notices_changed_files(folder, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    line = {"id": "a", "problem": "What is 1 + 1?", "answer": "2"}
    tasks.write_text(json.dumps(line) + "\n")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps(line | {"id": "b"}) + "\n")
    options = {"env": ENV | {"tasks": str(tasks)}, "updates": 1, "tasks_per_update": 1}
    options["eval_tasks"] = str(held_out)
    Trainer(small(folder, "run", **options)).run()
    before = tasks.read_text()
    tasks.write_text(json.dumps(line | {"answer": "3"}) + "\n")
    with pytest.raises(OptionError, match=r"env\.tasks: its files have changed since"):
        Trainer(small(folder, "run", **options)).run()
    tasks.write_text(before)
    Trainer(small(folder, "run", **options)).run()
    weights = next((folder / "student").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(OptionError, match="student: its files have changed"):
        Trainer(small(folder, "run", **options)).run()
