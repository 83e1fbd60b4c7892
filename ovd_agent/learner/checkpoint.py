"""Checkpoints on disk: numbered folders, written whole or not at all, and a pointer to the latest.

    checkpoints/latest, best         names of checkpoints (`ovd_agent.learner.folders`)
    checkpoints/checkpoint-000007/   model.safetensors, config.json, the tokenizer's files,
                                     optimizer.safetensors, state.json; adapters.safetensors

A checkpoint folder is also a plain model folder: `from_pretrained` and vLLM read it. Where
adapters are trained, they are merged into its weights, and a run resumes from those it began with
and the adapters, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from ovd_agent.learner.folders import (
    BEST,
    LATEST,
    PREFIX,
    complete_checkpoints,
    latest_checkpoint,
    point,
    pointed,
)
from ovd_agent.learner.learner import Learner
from ovd_agent.lora import adapters, plain_weights
from ovd_agent.models import quiet

T = TypeVar("T")

OPTIMIZER_FILE = "optimizer.safetensors"
ADAPTERS_FILE = "adapters.safetensors"
# What may differ between two configurations of the same function.
_INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


class SavesItself(Protocol):
    """A tokenizer, as far as a checkpoint is concerned."""

    def save_pretrained(self, save_directory: str, /) -> object: ...


def save_checkpoint(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: SavesItself,
    learner: Learner | None,
    state: Mapping[str, Any],
    keep: int = 2,
    *,
    best: bool = False,
    number: int | None = None,
) -> Path:
    """Write the next checkpoint and point `latest` at it, and `best` where it is that; keep the
    last `keep` and the best; return its folder.

    `number` names it where it is above that of the last one, as a run's update is. `state` is the
    caller's own JSON-able state. Without a learner it can be played and served, not resumed. One
    process may write to `folder` at a time.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}, but at least 1 checkpoint must be kept")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    existing = complete_checkpoints(root)
    following = int(existing[-1].name.removeprefix(PREFIX)) + 1 if existing else 1
    target = root / f"{PREFIX}{max(following, number or 0):06d}"
    # Under a fixed name, so that the leftovers of a killed process are found and removed.
    temporary = root / "unfinished"
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        model.save_pretrained(temporary, state_dict=plain_weights(model))
        tokenizer.save_pretrained(str(temporary))
    if trained := adapters(model):
        save_file(trained, temporary / ADAPTERS_FILE)
    if learner is not None:
        save_file(learner.state_dict(), temporary / OPTIMIZER_FILE)
    (temporary / "state.json").write_text(json.dumps(dict(state), allow_nan=False))
    temporary.replace(target)
    point(root, LATEST, target)
    if best:
        point(root, BEST, target)
    kept = pointed(root, BEST)
    for old in [*existing, target][:-keep]:
        if old != kept:
            shutil.rmtree(old)
    return target


def load_checkpoint(folder: str | Path, model: PreTrainedModel, learner: Learner) -> dict[str, Any]:
    """Restore model and learner in place, bit for bit, from the latest checkpoint.

    Returns the `state` that was saved. Raises FileNotFoundError when there is no checkpoint, and
    ValueError, with everything left as it was, when it is damaged or of another model.
    """
    path = latest_checkpoint(folder)
    saved = _read(path / "config.json", _read_json)
    state = _read(path / "state.json", _read_json)
    optimizer = _read(path / OPTIMIZER_FILE, load_file)
    # The weights beside the adapters are those that the run began with, as they are in `model`.
    trained = adapters(model)
    files = [path / ADAPTERS_FILE] if trained else _weight_files(path)
    weights = trained or cast(dict[str, Tensor], model.state_dict())
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _read(file, _read_shapes)
    _check_config(path, saved, model)
    converted = None if trained or shapes.keys() <= weights.keys() else _converted(path, model)
    if converted is not None:
        shapes = {name: tuple(weight.shape) for name, weight in converted.items()}
    _check_shapes(path, shapes, weights)
    learner.load_state_dict(optimizer)
    for each in (load_file(file) for file in files) if converted is None else [converted]:
        _copy(each, weights)
    return state


def _converted(path: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights under the names that they have in memory, where those of a file differ: transformers
    stacks the experts of a mixture when it loads a model."""
    with quiet():
        loaded = type(model).from_pretrained(path, dtype=model.dtype, device_map="cpu")
    return cast(dict[str, Tensor], loaded.state_dict())


def _weight_files(path: Path) -> list[Path]:
    # Big models are saved in several files; the plain name is the one to miss if there is none.
    return sorted(path.glob("model*.safetensors")) or [path / "model.safetensors"]


def _read(file: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(file)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"{file} is damaged or missing ({error}): delete {file.parent.name} to resume from "
            "the checkpoint before it"
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of saved weights; opening the file also checks that it is whole."""
    with safe_open(file, "pt") as weights:
        names = cast(list[str], weights.keys())
        return {name: tuple(weights.get_slice(name).get_shape()) for name in names}


def _check_config(path: Path, saved: Mapping[str, Any], model: PreTrainedModel) -> None:
    # Through JSON, as the saved one went, so that tuples and lists compare equal.
    current = json.loads(json.dumps(model.config.to_dict()))
    for name in sorted(saved.keys() & current.keys() - _INCIDENTAL):
        if saved[name] != current[name]:
            raise ValueError(
                f"{path} holds another model: its {name} is {saved[name]!r}, but this model's is "
                f"{current[name]!r}; load the model that was trained, or start anew elsewhere"
            )


def _check_shapes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]
) -> None:
    for name, shape in shapes.items():
        expected = tuple(weights[name].shape) if name in weights else None
        if shape != expected:
            raise ValueError(f"{path} has {name} of shape {shape}, but this model's is {expected}")
    # Tied weights are saved once, under one of their names.
    stored = {weights[name].data_ptr() for name in shapes}
    for name, weight in weights.items():
        if weight.data_ptr() not in stored:
            raise ValueError(f"{path} has no {name}, which this model needs")


@torch.no_grad()
def _copy(found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, weight in found.items():
        weights[name].copy_(weight)
