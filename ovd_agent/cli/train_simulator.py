"""Train a model to write what a search engine finds, then measure it on other tasks.

    ovd train-simulator --model smollm2 --out runs/simulator
    ovd train --search ovd_agent.simulator:LocalSimulator --search.model runs/simulator/model

The pairs of query and passages are those of the environment's own search engine (`--search`):
useful ones say what a hop asks for, noisy ones are near misses. `--judges` also measures how well
the model grades steps before and after: whether who learned to simulate can discriminate is an open
question of arXiv 2601.21968. `--control` trains on what should not teach that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.console import Console
from rich.table import Table

from ovd_agent.cli.parse import parse
from ovd_agent.fitting import FitOptions, fit, save_model
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.lora import LoraConfig, add_adapters
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.models import frozen_copy, load_model, student_path
from ovd_agent.rollouts.encoding import encode, encode_prompt
from ovd_agent.runs.config import EnvironmentConfig
from ovd_agent.scorer import ModelScorer
from ovd_agent.simulator import LocalWriter, Measured, Pair, measured, sampled_pairs, writing_rows
from ovd_envs.calibration.calibrate import KindCalibration, calibrate, known_steps
from ovd_envs.errors import OptionError
from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario
from ovd_envs.scenarios import MATH
from ovd_envs.teachers import DEFAULT_TEACHER
from ovd_envs.teachers.base import Demonstrator
from retrieval_index.files import write_atomically

_TASKS_A_STEP = 4
"""Tasks played for each step of a kind that is graded: most are played well."""


@dataclass(frozen=True)
class Options(FitOptions, EnvironmentConfig):
    """Train a simulator."""

    tasks: int = 150
    """Tasks whose hops are asked for."""
    held_out_tasks: int = 20
    """Other tasks, whose hops are asked for before and after."""
    top_k: int = 1
    """Passages of a query."""
    words: int = 40
    """Of a passage, at most."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    control: Literal["none", "shuffled", "other"] = "none"
    """What is trained on instead: the passages of other queries, or demonstrations of
    arithmetic."""
    judges: int = 0
    """Steps of each kind that the model grades before and after, half of them good where there are
    enough; 0: none."""
    out: Path = Path("runs/simulator")
    """Where model/ and simulator.json go."""


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments, __doc__ or "")
    console = Console()
    torch.manual_seed(options.seed)
    model, tokenizer = load_model(student_path(options.model))
    add_adapters(model, options.lora, options.seed)
    scenario, tasks = options.environment(teacher=DEFAULT_TEACHER, count=options.tasks).build()
    train = _pairs(scenario, tasks[: options.tasks], options)
    played = max(options.held_out_tasks, _TASKS_A_STEP * options.judges)
    unseen, others = options.held_out(played, teacher=DEFAULT_TEACHER).build()
    test = _pairs(unseen, others[: options.held_out_tasks], options)
    rows = _rows(options, tokenizer, train)
    console.print(f"{len(rows)} rows to train on, {len(test)} queries to measure with")
    steps = known_steps(unseen, others, options.judges, options.seed) if options.judges else []

    def state() -> tuple[Measured, list[KindCalibration]]:
        played = frozen_copy(model)
        judged = calibrate(ModelScorer(played, tokenizer), steps) if steps else []
        return measured(LocalWriter(played, tokenizer), test), judged

    before = state()
    fitted = fit(model, rows, options)
    after = state()
    save_model(model, tokenizer, options.out / "model")
    record: dict[str, Any] = {
        **options.record(),
        "rows": len(rows),
        "seconds": round(fitted.seconds, 1),
        "losses": [round(loss, 4) for loss in fitted.losses],
    }
    for name, (written, judged) in (("before", before), ("after", after)):
        record[name] = {**asdict(written), "judged": [asdict(kind) for kind in judged]}
    write_atomically(options.out / "simulator.json", json.dumps(record, indent=2))
    show(before, after)
    console.print(f"{fitted.seconds / 60:.1f} minutes; {options.out / 'simulator.json'}")
    return 0


def _pairs(scenario: Scenario, tasks: Sequence[Any], options: Options) -> list[Pair]:
    search = getattr(scenario, "search", None)
    if search is None:
        raise OptionError("the environment has no search engine: expected one that searches")
    return sampled_pairs(search, tasks, count=options.top_k, words=options.words, seed=options.seed)


def _rows(options: Options, tokenizer: Any, pairs: list[Pair]) -> list[TrainingRow]:
    """What is trained on: the pairs, or what a control has in their place."""
    if options.control == "shuffled":
        passages = [pair.passages for pair in pairs]
        random.Random(options.seed).shuffle(passages)
        pairs = [replace(pair, passages=each) for pair, each in zip(pairs, passages, strict=True)]
    if options.control != "other":
        return writing_rows(tokenizer, pairs)
    return _other_rows(tokenizer, len(pairs))


def _other_rows(tokenizer: Any, count: int) -> list[TrainingRow]:
    """Demonstrations of arithmetic: other text of about the same length."""
    scenario, tasks = make_scenario(MATH, count=count)
    episodes = scenario.begin(list(tasks))
    scenario.play_on(episodes, cast("Demonstrator", scenario.teacher))
    rows: list[TrainingRow] = []
    for episode in episodes:
        prompt = encode_prompt(tokenizer, episode.prompt)
        said = encode(tokenizer, "\n".join(turn.action for turn in episode.turns))
        row = TrainingRow.blank([*prompt, *said], "demonstration")
        row.stream(CrossEntropy.weight)[len(prompt) :] = 1.0
        rows.append(row)
    return rows


State = tuple[Measured, list[KindCalibration]]


def show(before: State, after: State) -> None:
    table = Table("of requests", "before", "after")
    said = {
        "form": "wrote passages in the form",
        "useful": "useful, and say what is asked for",
        "noisy": "noisy, and say it all the same",
    }
    for name, words in said.items():
        table.add_row(words, *(f"{getattr(each, name):.2f}" for each, _ in (before, after)))
    for one, other in zip(before[1], after[1], strict=True):
        table.add_row(f"AUC as a judge of {one.kind}", f"{one.auc:.2f}", f"{other.auc:.2f}")
    Console().print(table)
