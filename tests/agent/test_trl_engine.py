"""TRL's trainer, given our rows, takes the steps that our learner takes."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from ovd_agent.algorithms.rows import ADVANTAGE
from ovd_agent.learner.learner import Learner, LearnerConfig, Progress
from ovd_agent.learner.rows import BEHAVIOUR, TrainingRow
from ovd_agent.lora import LoraConfig, adapters, add_adapters
from ovd_agent.losses import loss_components
from ovd_agent.losses.policy_gradient import PolicyGradient
from ovd_envs.errors import OptionError
from tests.agent.tiny import VOCABULARY, tiny_model

pytest.importorskip("trl", reason='pip install -e ".[dev]"')
from ovd_agent.engines.base import LossByRows, passes
from ovd_agent.engines.trl import RowTrainer, TRLOptions, trl_arguments

LOSSES = tuple(loss_components([PolicyGradient(0.2, 0.3)]))
CONFIG = LearnerConfig(learning_rate=1e-2, minibatches=2, warmup_steps=2)
UPDATES = 3
WHOLE = replace(CONFIG, minibatches=1)
"""An update in one step: how rows are split among steps depends on who has them."""


def rows_of(update: int, count: int = 7) -> list[TrainingRow]:
    """Plays of the student, some clipped and some of the environment, and demonstrations."""
    rng = np.random.default_rng(update)
    prompt = rng.integers(0, VOCABULARY, 20).tolist()
    found = []
    for place in range(count):
        length = int(rng.integers(3, 12))
        ids = prompt + rng.integers(0, VOCABULARY, length).tolist()
        row = TrainingRow.blank(ids, "demonstration" if place % 3 == 0 else "student")
        if place % 3 == 0:
            row.stream("ce")[20:] = 1.0
        else:
            row.stream("pg")[20:] = 1.0
            row.stream("pg")[21] = 0.0  # as the environment's
            row.stream(ADVANTAGE)[20:] = rng.normal()
            row.stream(BEHAVIOUR)[20:] = rng.normal(-3, 0.5, length)
        found.append(row)
    return found


class Fixed:
    """The share of a process in the same rows as ever."""

    def __init__(self, rank: int = 0, ranks: int = 1, rows=rows_of) -> None:
        self.rank, self.ranks, self.rows = rank, ranks, rows
        self.published: list[int] = []

    def collect(self, update: int) -> list[TrainingRow]:
        return self.rows(update)[self.rank :: self.ranks]

    def publish(self, model, version: int) -> None:
        self.published.append(version)


def trainer(tokenizer, folder, model, source=None, config=CONFIG, updates=UPDATES, **options):
    passes_per_step = options.pop("passes_per_step", 2)
    callbacks = options.pop("callbacks", ())
    arguments = trl_arguments(str(folder), config, TRLOptions(passes_per_step), updates, **options)
    return RowTrainer(
        model, source or Fixed(), LossByRows(LOSSES, 0.7), config, arguments, tokenizer,
        callbacks=callbacks,
    )  # fmt: skip


def ours(config=CONFIG, updates=UPDATES, rows=rows_of):
    model = tiny_model()
    learner = Learner(model, config, losses=LOSSES, temperature=0.7)
    metrics = []
    for update in range(updates):
        progress = Progress(update / updates, (update + 1) / updates)
        metrics.append(learner.update(rows(update), update, progress))
    return model, metrics


def assert_weights(model, expected, tolerance=1e-9) -> None:
    theirs = dict(expected.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, theirs[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("passes_per_step", [1, 3, 8])
@pytest.mark.parametrize("loss_per", ["tokens", "row_means"])
def test_weights_and_metrics_are_those_of_our_learner(
    tokenizer, tmp_path, passes_per_step, loss_per
):
    config = replace(CONFIG, loss_per=loss_per)
    expected, metrics = ours(config)
    model, seen = tiny_model(), []
    made = trainer(tokenizer, tmp_path, model, config=config, passes_per_step=passes_per_step)
    made.on_update = lambda update, figures: seen.append((update, figures))
    made.train()
    assert_weights(model, expected)
    assert [update for update, _ in seen] == [0, 1, 2]
    for (_, figures), known in zip(seen, metrics, strict=True):
        for name in set(known) - {"computed_tokens"}:  # which depends on what is read once
            assert figures[name] == pytest.approx(known[name], rel=1e-5, abs=1e-9), name
    assert made.source.published == [0, 2, 4]


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tokenizer, tmp_path):
    expected, _ = ours()

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **_):
            control.should_training_stop = True

    trainer(tokenizer, tmp_path, tiny_model(), callbacks=[Stop()]).train()
    model, source = tiny_model(seed=5), Fixed()
    trainer(tokenizer, tmp_path, model, source).train(resume_from_checkpoint=True)
    assert source.published == [2, 4]
    assert_weights(model, expected)


def test_only_adapters_are_trained(tokenizer, tmp_path):
    model = tiny_model()
    add_adapters(model, LoraConfig(rank=2))
    before = copy.deepcopy(model.state_dict())
    trainer(tokenizer, tmp_path, model, updates=2).train()
    changed = {name for name, new in model.state_dict().items() if not before[name].equal(new)}
    assert changed == set(adapters(model))


def test_a_step_without_a_gradient_moves_nothing(tokenizer, tmp_path):
    """Nor by the momentum of earlier steps."""
    rows = lambda update: rows_of(update) if update == 0 else []  # noqa: E731
    expected, _ = ours(rows=rows)
    model = tiny_model()
    trainer(tokenizer, tmp_path, model, Fixed(rows=rows)).train()
    assert_weights(model, expected)


def test_a_step_that_is_not_finite_is_not_made(tokenizer, tmp_path):
    def rows(update: int):
        found = rows_of(update)
        found[1].stream(BEHAVIOUR)[22] = 0.0
        found[1].stream(ADVANTAGE)[22] = np.inf
        return found

    model = tiny_model()
    before = copy.deepcopy(model)
    with pytest.raises(FloatingPointError, match="optimiser step 1 was not made"):
        trainer(tokenizer, tmp_path, model, Fixed(rows=rows)).train()
    assert_weights(model, before)


def test_a_checkpoint_inside_an_update_is_refused(tokenizer, tmp_path):
    with pytest.raises(OptionError, match="save_steps=3: expected a multiple of minibatches=2"):
        trainer(tokenizer, tmp_path, tiny_model(), save_steps=3)


def test_passes_hold_every_row_once_and_share_lengths():
    rows = rows_of(0, 11)
    split = passes(rows, LOSSES, "rows", steps=2, passes_per_step=4, seed=0)
    assert [len(step) for step in split] == [4, 4]
    found = [row.ids for step in split for each in step for row in each.rows]
    assert sorted(found) == sorted(row.ids for row in rows)
    for step in split:
        lengths = [len(row.ids) for each in step for row in each.rows]
        assert lengths == sorted(lengths, reverse=True)
        assert {divisor for each in step for divisor in each.divisors} == {float(sum(
            len(each.rows) for each in step
        ))}  # fmt: skip


def launched(tmp_path: Path, mode: str) -> dict[str, torch.Tensor]:
    """The weights after training by two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(),
    }  # fmt: skip
    if mode == "fsdp":
        environment |= {
            "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        }  # fmt: skip
    command = [sys.executable, __file__, str(tmp_path), mode]
    ranks = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
    return torch.load(tmp_path / "weights.pt", weights_only=True)


@pytest.mark.parametrize("mode", ["fsdp", pytest.param("ddp", marks=pytest.mark.several)])
def test_two_processes_take_the_steps_of_one(tmp_path, mode):
    expected, metrics = ours(WHOLE)
    found = launched(tmp_path, mode)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-8)
    said = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    for mine, known in zip(said, metrics, strict=True):
        for name in ("loss", "trained_tokens", "grad_norm", "optimizer_steps"):
            assert mine[name] == pytest.approx(known[name], rel=1e-5), name


def shard_on_cpus() -> None:
    """accelerate shards on accelerators only, though FSDP2 itself runs on gloo: let it take our two
    processes for GPUs where it decides."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    decide = AcceleratorState.__init__

    def patched(self, *args, **kwargs):
        PartialState()
        if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        decide(self, *args, **kwargs)

    AcceleratorState.__init__ = patched


def one_process(folder: Path, mode: str) -> None:
    from transformers import PreTrainedTokenizerFast

    from ovd_agent.engines.base import full_weights
    from ovd_agent.models import tiny_model as student

    tokenizer = student()[1]
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    if mode == "fsdp":
        shard_on_cpus()
    rank = int(os.environ["RANK"])
    model, seen = tiny_model(), []
    made = trainer(tokenizer, folder / "trl", model, Fixed(rank, 2), WHOLE)
    made.loss = LossByRows(LOSSES, 0.7, share_prefix=mode == "ddp")
    made.on_update = lambda update, figures: seen.append(figures)
    made.train()
    sharded = any(hasattr(weight, "full_tensor") for weight in made.model.parameters())
    assert sharded == (mode == "fsdp")
    weights = full_weights(made.accelerator.unwrap_model(made.model))
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
        (folder / "metrics.json").write_text(json.dumps(seen), "utf-8")


if __name__ == "__main__":
    one_process(Path(sys.argv[1]), sys.argv[2])
