"""Algorithms by name. A package adds its own by the entry-point group `ovd.algorithms`."""

from __future__ import annotations

from typing import Any

from ovd_agent.algorithms.base import Algorithm
from ovd_envs.errors import OptionError
from retrieval_index.registry import Choice, Registry

ALGORITHMS: Registry[Algorithm] = Registry("algorithm", "ovd.algorithms")
DEFAULT_ALGORITHM = "ovd"
COLD_START = "sft"
"""What a run begins with where the student knows nothing."""


def _itself(algorithm: Algorithm) -> Algorithm:
    return algorithm


_CLASSES = {
    DEFAULT_ALGORITHM: "OVD",
    "ovd_continue": "OVDContinue",
    "ovd_rank": "OVDRank",
    "grpo": "GRPO",
    "dr_grpo": "DrGRPO",
    "rloo": "RLOO",
    "dapo": "DAPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "reinforce_pp": "ReinforcePP",
    COLD_START: "SFT",
    "luffy": "LUFFY",
    "ropd": "ROPD",
    "opd": "OPD",
    "vopd": "VOPD",
    "opd_topk": "OPDTopK",
    "gkd": "GKD",
    "sod": "SOD",
    "opsd": "OPSD",
    "staged": "Staged",
}
for _name, _class in _CLASSES.items():
    ALGORITHMS.register(_name, _itself, f"ovd_agent.algorithms.{_name}:{_class}")


def choose_algorithm(given: Any) -> Choice[Algorithm]:
    """An algorithm given by name, `module:Class`, mapping or as an object. Raises OptionError."""
    choice = ALGORITHMS.choose(given)
    algorithm: Any = choice.build()
    if not callable(getattr(algorithm, "rows", None)) or not hasattr(algorithm, "needs"):
        raise OptionError(
            f"algorithm={given!r:.100}: expected `needs` and a method rows(group, context), as in"
            " ovd_agent/algorithms/base.py"
        )
    return choice
