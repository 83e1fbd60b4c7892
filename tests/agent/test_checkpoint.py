from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ovd_agent.learner import checkpoint, folders
from ovd_agent.learner.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from ovd_agent.learner.learner import Learner, LearnerConfig
from tests.agent.test_learner import rows_of
from tests.agent.tiny import tiny_model

CONFIG = LearnerConfig(learning_rate=0.01, warmup_steps=5, weight_decay=0.01, minibatches=1)


class Words:
    """Stands for a tokenizer."""

    def save_pretrained(self, folder):
        Path(folder, "tokenizer.json").write_text("{}")


class Killed(BaseException):
    """The process ends here."""


def new_learner(**options):
    return Learner(tiny_model(dtype=torch.float32, **options), CONFIG)


def save(folder, learner, **options):
    state = options.pop("state", {"updates": learner.steps})
    return save_checkpoint(folder, learner.model, Words(), learner, state, **options)


def load(folder, learner):
    return load_checkpoint(folder, learner.model, learner)


def everything(learner):
    return {**learner.model.state_dict(), **learner.state_dict()}


def assert_bitwise(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("tied", [False, True])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, tied):
    unbroken, broken = new_learner(tied=tied), new_learner(tied=tied)
    for seed in range(6):
        unbroken.update(rows_of(seed=seed))
    for seed in range(3):
        broken.update(rows_of(seed=seed))
    save(tmp_path, broken, state={"cursor": 3, "nested": {"α": [1.5, None]}})
    resumed = new_learner(tied=tied, seed=9)
    assert load(tmp_path, resumed) == {"cursor": 3, "nested": {"α": [1.5, None]}}
    assert_bitwise(everything(resumed), everything(broken))
    for seed in range(3, 6):
        resumed.update(rows_of(seed=seed))
    assert_bitwise(everything(resumed), everything(unbroken))


def test_a_checkpoint_before_the_first_update_restores_a_fresh_optimiser(tmp_path):
    fresh, used = new_learner(), new_learner()
    save(tmp_path, fresh)
    used.update(rows_of())
    load(tmp_path, used)
    assert_bitwise(everything(used), everything(fresh))


def test_a_checkpoint_is_a_plain_model_folder(tmp_path):
    learner = new_learner()
    learner.update(rows_of())
    path = save(tmp_path, learner)
    assert (path / "tokenizer.json").exists()
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert_bitwise(loaded.state_dict(), learner.model.state_dict())
    assert not list(path.glob("*.bin")) + list(path.glob("*.pt")) + list(path.glob("*.pkl"))


def test_the_last_ones_are_kept_and_pointed_at(tmp_path):
    learner = new_learner()
    for number in range(4):
        save(tmp_path, learner, state={"number": number})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000003", "checkpoint-000004", "latest"]
    assert (tmp_path / "latest").read_text() == "checkpoint-000004"
    assert load(tmp_path, learner) == {"number": 3}
    best = save(tmp_path, learner, best=True)
    assert best.name == (tmp_path / "best").read_text() == "checkpoint-000005"
    for _ in range(3):
        save(tmp_path, learner, keep=1)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-000005",
        "checkpoint-000008",
    ]
    (tmp_path / "best").unlink()
    save(tmp_path, learner, keep=1)
    assert latest_checkpoint(tmp_path).name == "checkpoint-000009"
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize(
    "moment", ["tokenizer", "optimizer.safetensors", "state.json", "unfinished", "latest"]
)
def test_a_save_killed_at_any_moment_leaves_a_usable_checkpoint(tmp_path, monkeypatch, moment):
    learner = new_learner()
    learner.update(rows_of())
    save(tmp_path, learner, state={"number": 1})
    load(tmp_path, reloaded := new_learner())
    expected = everything(reloaded)
    learner.update(rows_of(seed=1))

    def killed_at(name):
        if Path(name).name == moment:
            raise Killed

    with monkeypatch.context() as patch:
        replace_path, write = Path.replace, Path.write_text
        write_pointer = folders.write_atomically
        patch.setattr(
            folders,
            "write_atomically",
            lambda path, text: (killed_at(path), write_pointer(path, text)),
        )
        patch.setattr(
            Path, "replace", lambda path, to: (killed_at(path), replace_path(path, to))[1]
        )
        patch.setattr(
            Path, "write_text", lambda path, text: (killed_at(path), write(path, text))[1]
        )
        save_file = checkpoint.save_file
        patch.setattr(
            checkpoint, "save_file", lambda data, path: (killed_at(path), save_file(data, path))
        )
        patch.setattr(Words, "save_pretrained", lambda self, folder: killed_at("tokenizer"))
        with pytest.raises(Killed):
            save(tmp_path, learner, state={"number": 2})
    survivor = new_learner(seed=5)
    assert load(tmp_path, survivor) == {"number": 1}
    assert_bitwise(everything(survivor), expected)
    # The next save clears up and moves on.
    save(tmp_path, learner, state={"number": 3})
    assert load(tmp_path, survivor) == {"number": 3}
    assert not (tmp_path / "unfinished").exists()


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*: start without resuming"):
        load(tmp_path / "nowhere", new_learner())


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.json"]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_named_and_nothing_is_loaded(tmp_path, name, damage):
    learner = new_learner()
    learner.update(rows_of())
    save(tmp_path, learner, state={"number": 1})
    path = save(tmp_path, learner, state={"number": 2, "long": "x" * 100}) / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2]) if damage == "cut" else path.unlink()
    victim = new_learner(seed=4)
    before = {name: value.clone() for name, value in everything(victim).items()}
    with pytest.raises(ValueError, match="is damaged or missing") as error:
        load(tmp_path, victim)
    assert str(error.value).startswith(str(path))
    assert_bitwise(everything(victim), before)
    # Doing what the message says helps.
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert load(tmp_path, victim) == {"number": 1}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hidden": 32}, "hidden_size is 16, but this model's is 32"),
        ({"vocabulary": 40}, "vocab_size is 32, but this model's is 40"),
        ({"layers": 1}, "layer"),
        ({"tied": True}, "tie_word_embeddings is False, but this model's is True"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_field(tmp_path, options, field):
    save(tmp_path, new_learner())
    other = new_learner(**options)
    before = {name: value.clone() for name, value in everything(other).items()}
    with pytest.raises(ValueError, match="holds another model") as error:
        load(tmp_path, other)
    assert field in str(error.value)
    assert_bitwise(everything(other), before)


def test_state_must_be_json(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path, new_learner(), state={"rng": object()})
    assert not list(tmp_path.glob("checkpoint-*"))


def test_state_is_plain_json_on_disk(tmp_path):
    path = save(tmp_path, new_learner(), state={"α": 1})
    assert json.loads((path / "state.json").read_text()) == {"α": 1}
