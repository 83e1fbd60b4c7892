"""Students, policies, rollouts, algorithms, the learner and the trainer.

Names are imported when they are first used, so that `import ovd_agent` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovd_agent.algorithms.base import Algorithm, Context, Needs
    from ovd_agent.algorithms.cispo import CISPO
    from ovd_agent.algorithms.dapo import DAPO
    from ovd_agent.algorithms.dr_grpo import DrGRPO
    from ovd_agent.algorithms.grpo import GRPO
    from ovd_agent.algorithms.gspo import GSPO
    from ovd_agent.algorithms.ovd import OVD, Advantage
    from ovd_agent.algorithms.ovd_continue import OVDContinue
    from ovd_agent.algorithms.ovd_rank import OVDRank
    from ovd_agent.algorithms.reinforce_pp import ReinforcePP
    from ovd_agent.algorithms.rloo import RLOO
    from ovd_agent.algorithms.rows import (
        PolicyTerm,
        imitation_row,
        policy_row,
        ratio_one_row,
        shaped_row,
    )
    from ovd_agent.algorithms.sft import SFT
    from ovd_agent.learner.learner import Learner, LearnerConfig
    from ovd_agent.learner.references import Wants
    from ovd_agent.learner.rows import TrainingRow
    from ovd_agent.lora import LoraConfig
    from ovd_agent.losses.base import LossComponent, Tokens
    from ovd_agent.models import load_model
    from ovd_agent.rollouts.demonstrations import DemonstrationConfig
    from ovd_agent.rollouts.group import Group
    from ovd_agent.rollouts.rollout import Rollout
    from ovd_agent.rollouts.trajectory import Trajectory
    from ovd_agent.runs.config import RolloutConfig, TrainConfig
    from ovd_agent.runs.evaluate import evaluate
    from ovd_agent.runs.trainer import Trainer

_HOMES = {
    **dict.fromkeys(("Algorithm", "Context", "Needs"), "algorithms.base"),
    **dict.fromkeys(("OVD", "Advantage"), "algorithms.ovd"),
    **dict.fromkeys(("PolicyTerm", "imitation_row", "policy_row"), "algorithms.rows"),
    **dict.fromkeys(("ratio_one_row", "shaped_row"), "algorithms.rows"),
    **dict.fromkeys(("Learner", "LearnerConfig"), "learner.learner"),
    **dict.fromkeys(("LossComponent", "Tokens"), "losses.base"),
    **dict.fromkeys(("RolloutConfig", "TrainConfig"), "runs.config"),
    "DemonstrationConfig": "rollouts.demonstrations",
    "CISPO": "algorithms.cispo",
    "DAPO": "algorithms.dapo",
    "DrGRPO": "algorithms.dr_grpo",
    "GSPO": "algorithms.gspo",
    "OVDContinue": "algorithms.ovd_continue",
    "OVDRank": "algorithms.ovd_rank",
    "RLOO": "algorithms.rloo",
    "ReinforcePP": "algorithms.reinforce_pp",
    "GRPO": "algorithms.grpo",
    "Group": "rollouts.group",
    "LoraConfig": "lora",
    "Rollout": "rollouts.rollout",
    "SFT": "algorithms.sft",
    "Trainer": "runs.trainer",
    "TrainingRow": "learner.rows",
    "Trajectory": "rollouts.trajectory",
    "Wants": "learner.references",
    "evaluate": "runs.evaluate",
    "load_model": "models",
}

__all__ = [
    "Advantage",
    "Algorithm",
    "CISPO",
    "Context",
    "DAPO",
    "DemonstrationConfig",
    "DrGRPO",
    "GRPO",
    "GSPO",
    "Group",
    "Learner",
    "LearnerConfig",
    "LoraConfig",
    "LossComponent",
    "Needs",
    "OVD",
    "OVDContinue",
    "OVDRank",
    "PolicyTerm",
    "RLOO",
    "ReinforcePP",
    "Rollout",
    "RolloutConfig",
    "SFT",
    "Tokens",
    "TrainConfig",
    "Trainer",
    "TrainingRow",
    "Trajectory",
    "Wants",
    "evaluate",
    "imitation_row",
    "load_model",
    "policy_row",
    "ratio_one_row",
    "shaped_row",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ovd")
    if name not in _HOMES:
        raise AttributeError(f"module 'ovd_agent' has no attribute {name!r}")
    return getattr(import_module(f"ovd_agent.{_HOMES[name]}"), name)
