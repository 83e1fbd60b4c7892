"""`import ovd_envs` is quick (in processor time: the machine may be busy) and light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys, time
started = time.process_time()
import gymnasium
middle = time.process_time()
import ovd_envs
ended = time.process_time()
ids = [env_id for env_id in gymnasium.registry if env_id.startswith("ovd/")]
print(json.dumps([ended - started, ended - middle, sorted(sys.modules), ids]))
"""
HEAVY = "torch transformers vllm faiss datasets sentence_transformers bm25s sympy math_verify"


def test_import_is_quick_and_light() -> None:
    command = [sys.executable, "-c", SCRIPT]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, cwd=ROOT, check=True).stdout)
        for _ in range(3)
    ]
    total, own, modules, ids = min(runs)
    assert {"ovd/Math-v0", "ovd/WebQA-v0"} == set(ids)
    assert not set(HEAVY.split()) & set(modules)
    assert own < 0.05
    assert total < 0.5
