"""Config to the parts of a run: scenario, student, policy, learner."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.algorithms import choose_algorithm
from ovd_agent.algorithms.base import Algorithm, Checked, WithLosses
from ovd_agent.learner.aligned import AlignedModel, same_vocabulary
from ovd_agent.learner.learner import AUTO, Learner
from ovd_agent.learner.memory import LEAST_BUDGET
from ovd_agent.learner.references import FrozenModel, Reference, Wants
from ovd_agent.learner.served_reference import ServedModel
from ovd_agent.lora import add_adapters
from ovd_agent.losses import loss_components
from ovd_agent.losses.base import LossComponent
from ovd_agent.models import compute_dtype, load_model, moved, student_path
from ovd_agent.policies import POLICIES
from ovd_agent.policies.base import PolicyContext, TrainedPolicy
from ovd_agent.policies.check import check_played
from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.demonstrations import Demonstrations
from ovd_agent.rollouts.ratings import group_judge
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.runs.config import PlayConfig, TrainConfig
from ovd_agent.runs.costs import TeacherCosts
from ovd_envs.episode import Task
from ovd_envs.errors import OptionError
from ovd_envs.scenario import Scenario
from ovd_envs.teachers.base import Demonstrator


@dataclass(slots=True)
class Student:
    """A model that plays, and what it computes in."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    policy: TrainedPolicy
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        device, weights = self.model.device.type, str(self.model.dtype).removeprefix("torch.")
        return f"{weights} weights, {str(self.dtype).removeprefix('torch.')} on {device}"


@dataclass(slots=True)
class SourceParts:
    """What makes the rows of an update, whoever learns from them."""

    tasks: Sequence[Task]
    held_out: Sequence[Task]
    algorithm: Algorithm
    tokenizer: PreTrainedTokenizerBase
    policy: TrainedPolicy
    rollout: Rollout
    evaluation: Rollout
    """The same policy on held-out tasks."""
    demonstrations: Demonstrations
    references: Mapping[str, Reference]

    @property
    def score_levels(self) -> int:
        return self.rollout.scenario.options.score_levels

    def costs(self) -> TeacherCosts:
        """Counters of everyone who judges or demonstrates."""
        shown = self.demonstrations
        scenarios = [self.rollout.scenario, self.evaluation.scenario, shown.scenario]
        teachers = [each.teacher for each in scenarios]
        return TeacherCosts(scenarios, [*teachers, shown.demonstrator])


@dataclass(slots=True)
class Parts(SourceParts):
    """Everything that a run in this process is made of."""

    model: PreTrainedModel
    learner: Learner
    precision: str

    def publish(self) -> dict[str, float]:
        """Give the learner's weights to the policy; returns figures for the log."""
        return self.policy.publish(self.model, self.learner.steps)


def assemble(config: TrainConfig) -> Parts:
    """Build the parts. Raises OptionError or ModelError, before anything is trained."""
    played = _Played.of(config)
    algorithm = chosen_algorithm(config, played.scenario)
    _use_threads(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(device)
    model, tokenizer = load_model(student_path(config.student))
    model = moved(moved(model, device), getattr(torch, config.learner.weights))
    references = _references(algorithm, model, tokenizer, config, dtype)
    add_adapters(model, config.lora, config.seed)
    learner = Learner(
        model,
        config.learner,
        losses=losses_of(algorithm),
        temperature=config.rollout.temperature,
        autocast=dtype != torch.float32,
        references={
            name: each.model for name, each in references.items() if isinstance(each, FrozenModel)
        },
    )
    lora_rank = 0 if config.lora.merge else config.lora.rank
    student = Student(model, tokenizer, _policy(config, model, tokenizer, dtype, lora_rank), dtype)
    source = _source(config, played, algorithm, student.policy, tokenizer, references)
    parts = {each.name: getattr(source, each.name) for each in fields(source)}
    return Parts(**parts, model=model, learner=learner, precision=student.precision)


def assemble_source(
    config: TrainConfig, policy: TrainedPolicy, tokenizer: PreTrainedTokenizerBase
) -> SourceParts:
    """The parts that play, where another process holds the student and learns.

    Raises OptionError, also for an algorithm that reads probabilities of a frozen model in this
    process.
    """
    played = _Played.of(config)
    algorithm = chosen_algorithm(config, played.scenario)
    check_no_frozen(algorithm)
    references = {
        name: ServedModel(name, wants.model, tokenizer)
        for name, wants in algorithm.needs.references.items()
    }
    return _source(config, played, algorithm, policy, tokenizer, references)


@dataclass(frozen=True, slots=True)
class _Played:
    """What is trained on, and what is evaluated on."""

    scenario: Scenario
    tasks: Sequence[Task]
    unseen: Scenario
    held_out: Sequence[Task]

    @classmethod
    def of(cls, config: TrainConfig) -> _Played:
        scenario, tasks = config.environment().build()
        held_out = config.held_out(config.eval_count, teacher=None, reward="outcome")
        return cls(scenario, tasks, *held_out.build())


def _source(
    config: TrainConfig,
    played: _Played,
    algorithm: Algorithm,
    policy: TrainedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    references: Mapping[str, Reference],
) -> SourceParts:
    scenario = played.scenario
    rollout = _rollout(config, scenario, policy, tokenizer, overlap=config.overlaps())
    rollout.check_prompts([*played.tasks, *played.held_out])
    evaluated = scenario if config.scores_held_out() else scenario.unscored()
    if config.eval_search is not None:
        evaluated = played.unseen
    judged, demonstrator = scenario, None
    if config.demonstrator is not None:
        shown = config.environment(teacher=config.demonstrator).build()[0]
        demonstrator = cast("Demonstrator", shown.teacher)
        judged = shown if scenario.teacher is None else scenario
    demonstrations = Demonstrations(judged, config.demonstrations, demonstrator)
    if algorithm.needs.verdicts:
        group_judge(demonstrations)
    return SourceParts(
        demonstrations.chosen(played.tasks),
        played.held_out[: config.eval_count],
        algorithm,
        tokenizer,
        policy,
        rollout,
        replace(rollout, scenario=evaluated),
        demonstrations,
        references,
    )


def chosen_algorithm(config: TrainConfig, scenario: Scenario) -> Algorithm:
    """Raises OptionError for one that does not fit the scenario's scores."""
    algorithm = choose_algorithm(config.algorithm).build()
    if isinstance(algorithm, Checked):
        algorithm.check(scenario.options.score_levels)
    return algorithm


def check_no_frozen(algorithm: Algorithm) -> None:
    """Raises OptionError for an algorithm that reads probabilities of a frozen model in this
    process."""
    for name, wants in algorithm.needs.references.items():
        if not wants.served or wants.whole:
            raise OptionError(
                f"the algorithm reads probabilities of a frozen model ({name}), which this engine"
                " does not hold: train it by --engine local or trl"
            )


def losses_of(algorithm: Algorithm) -> tuple[LossComponent, ...]:
    """The components of the loss of a run."""
    return loss_components(algorithm.losses if isinstance(algorithm, WithLosses) else ())


def assemble_play(config: PlayConfig, scenario: Scenario) -> tuple[Rollout, Student]:
    """A student that plays a scenario, without anything that learns."""
    _use_threads(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(device)
    model, tokenizer = load_model(student_path(config.student))
    model = moved(model, device)
    student = Student(model, tokenizer, _policy(config, model, tokenizer, dtype, 0), dtype)
    student.policy.publish(model, 0)
    return _rollout(config, scenario, student.policy, tokenizer, overlap=False), student


def _rollout(
    config: PlayConfig,
    scenario: Scenario,
    policy: TrainedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    *,
    overlap: bool,
) -> Rollout:
    return Rollout(
        scenario,
        policy,
        tokenizer,
        slots=config.rollout.slots,
        max_length=config.rollout.max_length,
        max_new_tokens=config.rollout.max_new_tokens,
        overlap=overlap,
        template=config.rollout.template(),
    )


def _references(
    algorithm: Algorithm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: TrainConfig,
    dtype: torch.dtype,
) -> dict[str, Reference]:
    found: dict[str, Reference] = {}
    chosen = config.learner.token_budget
    for name, wants in algorithm.needs.references.items():
        if wants.served:
            if wants.whole:
                raise OptionError(
                    f"teacher_model={wants.model!r}: a server says the probability of sampled"
                    " tokens only, and this algorithm reads whole distributions; give a model in"
                    " this process, or choose an algorithm that reads one number a token"
                )
            found[name] = ServedModel(name, wants.model, tokenizer)
            continue
        frozen, theirs = _frozen(wants, model, tokenizer)
        reference = FrozenModel(
            name,
            frozen,
            temperature=config.rollout.temperature,
            token_budget=LEAST_BUDGET if chosen == AUTO else chosen,
            logit_budget=config.learner.logit_budget,
            autocast=dtype != torch.float32,
            student=model,
        )
        same = same_vocabulary(theirs, tokenizer)
        found[name] = reference if same else AlignedModel(reference, theirs, tokenizer)
    return found


def _frozen(
    wants: Wants, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not wants.model:
        return copy.deepcopy(student), tokenizer
    model, theirs = load_model(student_path(wants.model))
    if not (wants.aligned or same_vocabulary(theirs, tokenizer)):
        raise OptionError(
            f"reference {wants.model!r} has another tokenizer than the student, so it judges"
            " other tokens; choose a model with the same tokenizer, or --algorithm opd with"
            " --algorithm.other-tokenizer"
        )
    return moved(moved(model, student.device), student.dtype), theirs


def _policy(
    config: PlayConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    lora_rank: int,
) -> TrainedPolicy:
    folder = config.out / "weights" if isinstance(config, TrainConfig) else _passing_folder()
    context = PolicyContext(
        model,
        tokenizer,
        config.student,
        folder,
        config.rollout.slots,
        config.rollout.max_length,
        dtype,
        lora_rank,
    )
    policy = POLICIES.choose(config.policy).build(context)
    if isinstance(policy, TorchPolicy):
        check_played(policy, config.student)
    return policy


def _passing_folder() -> Path:
    """Where weights pass through on their way to an engine; gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="ovd-weights-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _use_threads(config: PlayConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
