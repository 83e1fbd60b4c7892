"""`import ovd_envs` is light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
import gymnasium, ovd_envs
ids = [env_id for env_id in gymnasium.registry if env_id.startswith("ovd/")]
print(json.dumps([sorted(sys.modules), ids]))
"""
HEAVY = "torch transformers vllm faiss datasets sentence_transformers bm25s sympy math_verify"


def test_import_loads_nothing_heavy() -> None:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    modules, ids = json.loads(done.stdout)
    assert {"ovd/Math-v0", "ovd/WebQA-v0"} == set(ids)
    assert not set(HEAVY.split()) & set(modules)
