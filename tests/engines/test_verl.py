"""verl's parts, given our rows: the loss is ours, and tasks become rows in its queue."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("verl", reason="make setup-verl")

import ray
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict
from verl.utils.config import validate_config
from verl.utils.dataset.rl_dataset import collate_fn
from verl.utils.tensordict_utils import assign_non_tensor_data, get_tensordict
from verl_client import Client

from ovd_agent.algorithms.gkd import GKD
from ovd_agent.engines import VerlOptions
from ovd_agent.engines.verl_rows import readable, row_fields, rows_loss, stream_names
from ovd_agent.engines.verl_run import OVDTrainer, Tasks, VerlRun, row_columns, verl_config
from ovd_agent.engines.verl_source import (
    RowManager,
    VerlPolicy,
    collector_on,
    nested,
)
from ovd_agent.learner.batches import micro_batches
from ovd_agent.learner.components import batch_losses
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.learner.rows import ADVANTAGE, AUTHORS, BEHAVIOUR, TrainingRow, divisors
from ovd_agent.losses import loss_components
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_agent.models import load_model, tiny_model
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.runs.collect import Share, Stopwatch
from ovd_agent.runs.config import RolloutConfig, TrainConfig
from ovd_envs.errors import OptionError

LOSSES = readable(loss_components([PolicyGradient(0.2, 0.3)]))
PROMPT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny student as a checkpoint."""
    path = tmp_path_factory.mktemp("student")
    for part in tiny_model():
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder))[0].double()


@pytest.fixture(scope="module")
def config(folder):
    return TrainConfig(
        student=str(folder),
        updates=2,
        tasks_per_update=4,
        eval_count=6,
        rollout=RolloutConfig(slots=8, max_length=2048),
    )


def rows_of(vocabulary: int, count: int = 7) -> list[TrainingRow]:
    """Plays of the student, some clipped, with the environment's tokens between, demonstrations,
    and one that trains nothing."""
    rng = np.random.default_rng(0)
    found = []
    for place in range(count):
        length = int(rng.integers(3, 12))
        ids = rng.integers(0, vocabulary, PROMPT + length).tolist()
        author = "teacher" if place % 3 == 0 else "student"
        authors = np.full(len(ids), AUTHORS.index(author), dtype=np.int8)
        authors[:PROMPT] = AUTHORS.index("prompt")
        authors[PROMPT + 1] = AUTHORS.index("environment")
        row = TrainingRow.blank(ids, "demonstration" if place % 3 == 0 else "student", authors)
        weight = "ce" if place % 3 == 0 else "pg"
        if place < count - 1:
            row.stream(weight)[PROMPT:] = 1.0
            row.stream(weight)[PROMPT + 1] = 0.0
        if weight == "pg":
            row.stream(ADVANTAGE)[PROMPT:] = rng.normal()
            row.stream(BEHAVIOUR)[PROMPT:] = rng.normal(-3, 0.5, length)
            row.stream(BEHAVIOUR)[PROMPT + 1] = np.nan
        found.append(row)
    return found


def batch_of(rows: list[TrainingRow]) -> TensorDict:
    """What a worker of verl sees of rows: jagged tensors, and figures of the optimiser step."""
    fields = [row_fields(row, LOSSES, reward=0.5, turns=1) for row in rows]
    columns = {
        name: [each[name] for each in fields]
        for name, value in fields[0].items()
        if isinstance(value, torch.Tensor)
    }
    data = nested(columns, len(rows))
    extra = NonTensorStack(*(each["extra_fields"] for each in fields))
    shown = TensorDict({"extra_fields": extra}, batch_size=len(rows))
    shown["response_mask"] = data["response_mask"]
    streams = row_columns(shown, [False] * len(rows), stream_names(LOSSES))
    for name, value in nested(streams, len(rows)).items():
        data[name] = value
    tokens = int(data["loss_mask"].values().sum())
    assign_non_tensor_data(data, "batch_num_tokens", tokens)
    assign_non_tensor_data(data, "dp_size", 1)
    return data


def logprobs_of(model, data: TensorDict) -> torch.Tensor:
    """Of each next token, packed, as verl's engines give them."""
    found = []
    for ids in data["input_ids"]:
        logits = model(ids[None]).logits[0].log_softmax(-1)
        found.append(logits.gather(-1, ids.roll(-1)[:, None])[:, 0])
    return torch.nested.as_nested_tensor(found, layout=torch.jagged)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


def test_the_gradient_is_that_of_our_learner(model):
    rows = rows_of(model.config.vocab_size)
    each = divisors(rows, LOSSES, "tokens")
    expected = sum(
        batch_losses(model, batch, LOSSES, 1.0, 2**20)[0].sum()
        for batch in micro_batches(rows, LOSSES, each, 10_000, torch.device("cpu"))
    )
    data = batch_of(rows)
    loss, metrics = rows_loss({"log_probs": logprobs_of(model, data)}, data, losses=LOSSES)
    theirs, mine = gradients(model, loss), gradients(model, expected)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    for name, gradient in mine.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-9, atol=1e-12)
    assert metrics["pg_loss"].aggregate() + metrics["ce_loss"].aggregate() == pytest.approx(
        float(expected)
    )


def test_the_loss_is_a_sum_over_micro_batches_and_ranks(model):
    rows = rows_of(model.config.vocab_size)
    data = batch_of(rows)
    whole = rows_loss({"log_probs": logprobs_of(model, data)}, data, losses=LOSSES)[0]
    parts = []
    for half in (rows[:3], rows[3:]):
        part = batch_of(half)
        assign_non_tensor_data(part, "batch_num_tokens", data["batch_num_tokens"])
        assign_non_tensor_data(part, "dp_size", 2)  # which verl averages over
        parts.append(rows_loss({"log_probs": logprobs_of(model, part)}, part, losses=LOSSES))
    torch.testing.assert_close(sum(loss for loss, _ in parts) / 2, whole)
    assert parts[0][1].keys() == parts[1][1].keys()


def test_fillers_of_verl_train_nothing(model):
    rows = rows_of(model.config.vocab_size)[:2]
    data = batch_of(rows)
    extra = NonTensorStack({}, {"ovd_streams": {"pg": np.ones(99)}})
    shown = TensorDict({"extra_fields": extra}, batch_size=2)
    shown["response_mask"] = data["response_mask"]
    columns = row_columns(shown, [True, True], stream_names(LOSSES))
    for name, value in nested(columns, 2).items():
        data[name] = value
    assign_non_tensor_data(data, "batch_num_tokens", 0)
    loss, _ = rows_loss({"log_probs": logprobs_of(model, data)}, data, losses=LOSSES)
    assert float(loss) == 0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def in_thread(policy: VerlPolicy, work):
    """What a worker does: requests on its event loop, the rollout in a thread."""

    async def run():
        policy.at(asyncio.get_running_loop(), 3)
        return await asyncio.to_thread(work)

    return asyncio.run(run())


def test_a_greedy_rollout_is_that_of_our_policy(config):
    client = Client(config.student)
    policy, collector = collector_on(config, client, Share())
    rollout, tasks = collector.parts.evaluation, collector.parts.held_out
    theirs = in_thread(policy, lambda: rollout.play(tasks, temperature=0))
    own = replace(rollout, policy=TorchPolicy(client.model, client.tokenizer))
    for mine, played in zip(own.play(tasks, temperature=0), theirs, strict=True):
        assert played.ids == mine.ids
        np.testing.assert_allclose(played.logprobs, mine.logprobs, atol=1e-4)
        assert played.version == 3
    assert len(set(client.asked)) == len(tasks)  # one server an episode


def test_a_server_that_gives_up_ends_the_update(config):
    policy, collector = collector_on(config, Client(config.student, broken=True), Share())
    with pytest.raises(PolicyUnavailable, match="gave up: aborted"):
        in_thread(policy, lambda: collector.collect(0, Stopwatch()))


@pytest.fixture(scope="module")
def cluster():
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where actors find their client
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    tq.init()
    yield
    tq.close()
    ray.shutdown()


def prompts(step: int, places: list[int], **more) -> TensorDict:
    """Tasks as verl's trainer sends them: from its dataset, by its own hands."""
    tasks = Tasks([2000], config=None)
    batch = collate_fn([tasks[place] for place in places])
    batch["uid"] = np.array([f"u{place}" for place in places], dtype=object)
    data = get_tensordict(batch)
    for name, value in {"global_steps": step, **more}.items():
        assign_non_tensor_data(data, name, value)
    return data


def test_an_update_goes_through_verls_queue(cluster, config, model):
    manager = RowManager(config, Client(config.student), workers=2)
    manager.generate_sequences(prompts(1, [0, 1, 2]))
    listed = tq.kv_list()["train"]
    done = [key for key, tag in listed.items() if tag.get("is_prompt")]
    keys = [key for key, tag in listed.items() if not tag.get("is_prompt")]
    assert sorted(done) == ["u0", "u1", "u2"]
    assert {key.split("_")[0] for key in keys} == set(done)
    # The default algorithm plays each task twice, and a tiny student is always rejected.
    assert len(keys) == 6
    assert manager.figures["demonstrations"] == 3
    trainer = OVDTrainer.__new__(OVDTrainer)
    trainer._streams = stream_names(LOSSES)
    tags = [listed[key] for key in keys]
    batch = tq.KVBatchMeta(keys=keys, tags=tags, partition_id="train")
    batch = trainer._compute_advantage(batch, {})
    data = tq.kv_batch_get(keys=keys, partition_id="train")
    assign_non_tensor_data(data, "batch_num_tokens", int(data["loss_mask"].values().sum()))
    assign_non_tensor_data(data, "dp_size", 1)
    loss, _ = rows_loss({"log_probs": logprobs_of(model, data)}, data, losses=LOSSES)
    weights = data["ce"].values()
    logprobs = torch.cat(list(logprobs_of(model, data)))
    assert float(weights.sum()) == data["batch_num_tokens"] > 0
    assert float(loss) > 0
    assert torch.isfinite(logprobs).all()
    tq.kv_clear(keys=[*keys, *done], partition_id="train")


def test_held_out_tasks_are_played_greedily_and_rewarded(cluster, config):
    manager = RowManager(config, Client(config.student), workers=1)
    manager.generate_sequences(prompts(0, [0, 1], validate=True))
    listed = tq.kv_list()["val"]
    keys = [key for key, tag in listed.items() if not tag.get("is_prompt")]
    assert len(keys) == 2
    data = tq.kv_batch_get(keys=keys, partition_id="val")
    assert data["rm_scores"].values().sum() == 0
    assert manager.figures == {}


def test_the_configuration_is_one_that_verl_accepts(config):
    config = replace(config, learner=LearnerConfig(learning_rate=3e-5, minibatches=2))
    found = verl_config(VerlOptions(gpus_per_node=2, overrides=("trainer.device=cuda",)), config)
    validate_config(found, use_reference_policy=False, use_critic=False)
    assert found.actor_rollout_ref.actor.optim.lr == 3e-5
    assert found.actor_rollout_ref.actor.ppo_mini_batch_size == 2
    assert found.trainer.total_training_steps == 2
    tasks = Tasks(found.data.train_files, config=found.data)
    assert len(tasks) == 2000
    assert tasks[7]["index"] == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": LearnerConfig(loss_per="rows")}, "loss_per"),
        ({"tasks_per_update": 6}, "multiple of"),
        ({"algorithm": GKD(teacher_model="smollm2")}, "reads probabilities of a frozen model"),
        ({"student": "tiny"}, "has no files"),
    ],
)
def test_what_verl_cannot_follow_is_refused(config, changes, message):
    with pytest.raises(OptionError, match=message):
        VerlRun(VerlOptions(), replace(config, **changes))
