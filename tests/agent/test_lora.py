"""LoRA: it begins as the model it is added to, trains only itself, and leaves as plain weights."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from ovd_agent.learner import checkpoint
from ovd_agent.learner.learner import Learner, LearnerConfig
from ovd_agent.lora import LoraConfig, adapters, add_adapters, plain_weights
from ovd_agent.models import load_model
from ovd_agent.policies.publish import WEIGHTS_FILE, write_weights
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_envs.errors import OptionError
from tests.agent.test_checkpoint import assert_bitwise, everything, load, save
from tests.agent.test_learner import rows_of
from tests.agent.tiny import tiny_model

CONFIG = LearnerConfig(learning_rate=0.01, warmup_steps=1, minibatches=1)
IDS = torch.arange(20)[None] % 32


def adapted(rank=4, **options):
    model = tiny_model(**{"dtype": torch.float32, **options})
    add_adapters(model, LoraConfig(rank), seed=1)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [False, True])
def test_it_begins_as_the_model_and_trains_only_itself(tied):
    plain, model = tiny_model(dtype=torch.float32, tied=tied), adapted(tied=tied)
    assert torch.equal(logits(plain), logits(model))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Learner(model, CONFIG).update(rows_of(seed=0))
    changed = {n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])}
    assert changed
    assert changed <= adapters(model).keys()
    assert not torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("tied", [False, True])
def test_merged_it_is_a_plain_model_that_computes_the_same(tied, tmp_path):
    model = adapted(tied=tied, dtype=torch.float64)
    learner = Learner(model, CONFIG)
    for seed in range(3):
        learner.update(rows_of(seed=seed))
    plain = tiny_model(seed=5, tied=tied)
    plain.load_state_dict(plain_weights(model))
    assert torch.allclose(logits(plain), logits(model), atol=1e-12)
    stored = load_file(write_weights(model, tmp_path, 1) / WEIGHTS_FILE)
    assert ("lm_head.weight" in stored) is not tied
    assert all(torch.equal(stored[name], plain_weights(model)[name]) for name in stored)
    assert len(stored) == len(plain.state_dict()) - tied


def test_without_adapters_the_weights_are_the_state_dict():
    model = tiny_model()
    weights, state = plain_weights(model), model.state_dict()
    assert weights.keys() == state.keys()
    assert all(weights[name].data_ptr() == state[name].data_ptr() for name in state)
    assert adapters(model) == {}


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken, broken = Learner(adapted(), CONFIG), Learner(adapted(), CONFIG)
    for seed in range(4):
        unbroken.update(rows_of(seed=seed))
    for seed in range(2):
        broken.update(rows_of(seed=seed))
    save(tmp_path, broken)
    resumed = Learner(adapted(), CONFIG)
    load(tmp_path, resumed)
    assert_bitwise(everything(resumed), everything(broken))
    for seed in range(2, 4):
        resumed.update(rows_of(seed=seed))
    assert_bitwise(everything(resumed), everything(unbroken))


def test_a_checkpoint_is_a_plain_model_and_names_what_does_not_fit(tmp_path):
    learner = Learner(adapted(), CONFIG)
    learner.update(rows_of(seed=0))
    folder = save(tmp_path, learner)
    read = type(learner.model).from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(logits(read), logits(learner.model), atol=1e-5)
    with pytest.raises(ValueError, match=r"lora_A.*of shape"):
        load(tmp_path, Learner(adapted(rank=2), CONFIG))
    (folder / checkpoint.ADAPTERS_FILE).unlink()
    with pytest.raises(ValueError, match=r"adapters.safetensors is damaged or missing"):
        load(tmp_path, Learner(adapted(), CONFIG))


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for saving in (False, True):
        model = adapted(dtype=torch.float64)
        for weight in adapters(model).values():
            weight += 0.1  # an adapter that begins at zero has no gradient on one side
        config = LearnerConfig(gradient_checkpointing=saving, share_prefix=False)
        Learner(model, config).backward(rows_of(seed=0))
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-12), name
        assert gradient.abs().max() > 0, name


def test_a_policy_that_plays_with_a_copy_takes_the_adapters_over():
    model, tokenizer = load_model("tiny")
    add_adapters(model, LoraConfig(4))
    policy = TorchPolicy(copy.deepcopy(model), tokenizer, slots=2, max_length=64)
    for weight in adapters(model).values():
        weight += 0.1
    assert not torch.equal(logits(policy.model), logits(model))
    policy.publish(model, 1)
    assert torch.equal(logits(policy.model), logits(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": -1}, "rank=-1"),
        ({"alpha": 0}, "alpha=0"),
        ({"merge": False}, "merge=False: expected a rank"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        LoraConfig(**options)
