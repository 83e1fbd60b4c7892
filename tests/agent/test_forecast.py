"""The forecast of memory against what is really held, and the commands that show it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from ovd_agent.cli import doctor, main
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.learner.memory import (
    LEAST_BUDGET,
    MOST_BUDGET,
    activation_bytes,
    fake_model,
    fitting_budget,
)
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.lora import LoraConfig, add_adapters
from ovd_agent.models import tiny_model
from ovd_agent.policies.base import Sampling
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.runs import forecast as forecasts
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.forecast import cache_bytes, forecast

LENGTH = 48


def kept(model, dtype=torch.float32) -> int:
    """Bytes that autograd saves of a real pass over two rows, weights left out."""
    own = {StorageWeakRef(each.untyped_storage()) for each in model.parameters()}
    found = {}

    def saved(tensor):
        storage = tensor.untyped_storage()
        if StorageWeakRef(storage) not in own:
            found[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    mask = torch.ones(2, LENGTH)
    mask[1, -5:] = 0  # as in nearly every batch
    mixed = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor), mixed:
        model.get_decoder()(input_ids=ids, use_cache=False, attention_mask=mask)
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 8])
def test_what_a_pass_keeps_is_that_of_a_real_pass(dtype, rank):
    model = tiny_model()[0]
    add_adapters(model, LoraConfig(rank=rank))
    with FakeTensorMode():
        fake = fake_model(model.config, LoraConfig(rank=rank))
        counted = activation_bytes(fake, 2, LENGTH, dtype, checkpointing=False)
    assert counted == pytest.approx(kept(model, dtype), rel=0.02)


def test_checkpointing_keeps_less():
    with FakeTensorMode():
        model = fake_model(tiny_model(num_hidden_layers=6)[0].config)
        kept, less = (
            activation_bytes(model, 2, LENGTH, torch.float32, checkpointing=checkpointing)
            for checkpointing in (False, True)
        )
    assert less < kept / 3


def test_a_budget_is_chosen_by_what_is_free(monkeypatch):
    """On a device that says it is a GPU with so much memory."""
    model = tiny_model()[0]
    learner = Learner(model, LearnerConfig())
    assert learner.token_budget == LEAST_BUDGET

    class Graphics(type(model)):
        device = torch.device("cuda")

    model.__class__ = Graphics
    chosen = []
    for free in (2**20, 2**28, 2**29, 2**40):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        chosen.append(fitting_budget(model, torch.float32, 2**20, checkpointing=False))
    assert chosen[0] == LEAST_BUDGET < chosen[1] < chosen[2] <= chosen[3] == MOST_BUDGET


def test_the_cache_is_that_of_a_policy(student, tokenizer):
    policy = TorchPolicy(student, tokenizer, slots=3, max_length=50)
    policy.submit(0, [7, 8, 9], Sampling(max_new_tokens=1))
    policy.collect()
    stores = [store for layer in policy._decoder.cache.layers.values() for store in layer]
    with FakeTensorMode():
        counted = cache_bytes(student.config, 3, 50, torch.float32)
    assert counted == sum(store.untyped_storage().nbytes() for store in stores)


@pytest.mark.parametrize("rank", [0, 8])
def test_a_learner_holds_what_was_said(rank):
    model = tiny_model()[0]
    add_adapters(model, LoraConfig(rank=rank))
    learner = Learner(model, LearnerConfig())
    row = TrainingRow.blank([7, 8, 9, 10], "demonstration")
    row.stream("ce")[1:] = 1.0
    learner.update([row])
    learner.backward([row])
    found = forecast(TrainConfig(student="tiny", lora=LoraConfig(rank=rank))).parts
    parameters = list(model.parameters())
    gradients = [each.grad for each in parameters if each.grad is not None]
    assert found["weights"] == sum(4 * each.numel() for each in parameters)
    assert found["gradients"] == sum(4 * each.numel() for each in gradients)
    moments = [value for name, value in learner.state_dict().items() if ":exp" in name]
    assert found["optimizer"] == sum(4 * each.numel() for each in moments)


def test_a_dry_run_trains_nothing_and_names_what_helps(tmp_path, capsys, monkeypatch):
    words = ["train", "--student", "tiny", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main.main(words) == 0
    assert "it fits: " in capsys.readouterr().out
    monkeypatch.setattr(forecasts, "available", lambda device: 2**20)
    assert main.main([*words, "--learner.token-budget", "100000"]) == 1
    assert "learner.token_budget, learner.gradient_checkpointing" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main.main(["train", "--student", str(tmp_path), "--dry-run"]) == 2
    assert "has no configuration" in capsys.readouterr().err


def test_the_doctor_names_what_is_missing_and_what_does_not_fit(capsys, monkeypatch):
    assert main.main(["doctor"]) == 0
    assert "missing of what every run needs: nothing" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    assert main.main(["doctor"]) == 1
    assert "missing of what every run needs: no-such-package" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch==1.0", "x; extra == 'y'"])
    assert doctor.conflicts("vllm").startswith("requires torch==1.0, but 2.")
