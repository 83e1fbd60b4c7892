"""The benchmark for GPUs runs from end to end, in tiny shapes on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_benchmark_runs_in_tiny_shapes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    out = tmp_path / "gpu.json"
    gpu.main(gpu.Options(smoke=True, run=False, out=out))
    found = json.loads(out.read_text())
    names = {each["name"] for each in found["results"]}
    assert {"decode: ovd", "decode: generate", "learn: ovd", "learn: padded"} <= names
    assert all(each["tokens_per_second"] > 0 for each in found["results"])
    assert "learn: padded" in capsys.readouterr().out


def test_what_does_not_fit_says_so(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu
    import torch

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "learning", full)
    job = gpu.Job("learn: ovd", "7b", 64, gpu.Options())
    assert gpu.measured(job)["failed"] == "out of memory"
