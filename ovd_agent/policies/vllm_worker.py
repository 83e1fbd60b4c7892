"""What runs inside vLLM's own workers, to which `--worker-extension-cls` adds `LoadsWeights`.

Only they import this file.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


def _keep_packed_weights_sources() -> None:
    """On CPUs vLLM packs linear weights when it loads them and drops what they were packed from,
    so that loading others has nothing to write to. This keeps it, at the price of one copy."""
    layers: Any = importlib.import_module("vllm.model_executor.layers.utils")
    pack = layers.dispatch_cpu_unquantized_gemm

    @functools.wraps(pack)
    def keeping(layer: Any, remove_weight: bool) -> None:
        pack(layer, remove_weight=False)

    layers.dispatch_cpu_unquantized_gemm = keeping


# A worker imports its extension before it makes the model.
_keep_packed_weights_sources()


class LoadsWeights:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def load_folder(self, folder: str) -> None:
        """Replace the model's weights by those of all safetensors files in `folder`."""
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no weights")
        self.load_tensors(item for file in files for item in load_file(file).items())

    def load_tensors(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the model's weights by these, which must be all of them."""
        model = self.model_runner.get_model()
        model.load_weights(weights)
        for module in model.modules():
            if method := getattr(module, "quant_method", None):
                method.process_weights_after_loading(module)
