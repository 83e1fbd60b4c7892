"""The training loop: tasks, episodes, trajectories, rows, update; readable top to bottom."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from ovd_agent.algorithms import ALGORITHMS
from ovd_agent.algorithms.base import (
    Adaptive,
    Advises,
    Algorithm,
    Context,
    Continues,
    Measured,
    Resamples,
    Stateful,
    demonstrations_wanted,
)
from ovd_agent.learner.checkpoint import load_checkpoint, save_checkpoint
from ovd_agent.learner.folders import BEST, latest_checkpoint, point
from ovd_agent.learner.learner import Progress
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.report.run import write_report
from ovd_agent.rollouts.continuations import Cut, continue_samples
from ovd_agent.rollouts.group import Group
from ovd_agent.runs.alarms import Alarms
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.costs import total
from ovd_agent.runs.evaluate import evaluate
from ovd_agent.runs.logs import REJECTIONS_FILE, RunLog, append_record, read_log
from ovd_agent.runs.metrics import describe, peak_memory_mb, truth_of_accepted
from ovd_agent.runs.schedule import Schedule
from ovd_envs.episode import Task, write_episodes
from ovd_envs.errors import OptionError
from retrieval_index.files import locked, write_atomically

LOCK_FILE = ".lock"
MAX_GAP = 0.25
"""Nats a token, as for the first probe of an engine's weights (policies/publish.py)."""


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in each stage of an update."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class Trainer:
    """A run: everything that `TrainConfig` describes, resumable at any update."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.parts = assemble(config)
        self.algorithm = self.parts.algorithm
        self.update = 0
        self.seconds = 0.0
        self._alarms = Alarms(config.rollout.max_length, self.parts.score_levels)
        self._schedule = Schedule(self.parts.tasks, config.tasks_per_update, config.seed)
        self._costs = self.parts.costs()
        self._rejection: dict[str, Any] | None = None
        """A rejected play of the latest update beside what replaced it."""
        self._saved: int | None = None
        """The update of the latest checkpoint."""

    def run(self) -> dict[str, Any]:
        """Train to the end (or from where a stopped run was left) and return the summary.

        Raises OptionError if another process trains in the run's folder.
        """
        out = self.config.out
        held = OptionError(
            f"another process is training in {out}: wait for it, or choose another --out"
        )
        with locked(out / LOCK_FILE, held):
            return self._run()

    def _run(self) -> dict[str, Any]:
        config = self.config
        config.save()
        self._resume()
        began = time.perf_counter() - self.seconds
        with RunLog(
            config.out, config.updates, resume_from=self.update, eval_every=config.eval_every
        ) as log:
            log.say(f"{config.student}: {self.parts.precision}")
            if self.update:
                log.say(f"resuming {config.out} after update {self.update} of {config.updates}")
            while True:
                if self._evaluation_is_due() and self.update not in log.evaluated:
                    self._evaluate(log)
                if self.update >= config.updates:
                    break
                number = self.update
                metrics = self.step()
                log.log(number, metrics)
                if self._rejection is not None:
                    append_record(config.out / REJECTIONS_FILE, self._rejection)
                for advice in self._advice(metrics):
                    log.say(f"update {number + 1}: {advice}")
                self.seconds = time.perf_counter() - began
                if self.update % config.checkpoint_every == 0 or self.update == config.updates:
                    self._save()
        self.seconds = max(self.seconds, time.perf_counter() - began)
        summary = self._summarise()
        write_report(config.out)
        return summary

    def _advice(self, metrics: Mapping[str, Any]) -> list[str]:
        mine = None
        if isinstance(self.algorithm, Advises):
            mine = self.algorithm.advice(metrics, self.parts.score_levels)
        return self._alarms.advice(metrics, mine)

    def step(self) -> dict[str, Any]:
        """One update; what it does depends only on the weights, the seed and the update number."""
        watch = Stopwatch()
        start = time.perf_counter()
        tasks = self._schedule.tasks(self.update)
        with watch("rollout"):
            groups, resampled = self._play(tasks)
        algorithm, context = self.algorithm, self._context()
        if isinstance(algorithm, Adaptive):
            samples = [sample for group in groups for sample in group.samples]
            algorithm = algorithm.adapted(samples, context)
        with watch("teacher"):
            failed = self._demonstrate(groups, algorithm)
            continued = self._continue(groups, algorithm)
        with watch("learn"):
            rows = [row for group in groups for row in algorithm.rows(group, context)]
            for name, wants in algorithm.needs.references.items():
                self.parts.references[name].measure(rows, wants)
            if isinstance(algorithm, Measured):
                algorithm.measured(rows)
            learned = self._learn(rows)
            published = self.parts.publish()
        self._rejection = _one_rejection(context)
        self.update += 1
        teacher, seconds = self._costs.taken()
        watch.seconds["total"] = time.perf_counter() - start
        described = describe(groups, rows, self.parts.score_levels)
        described["student_tokens"] += resampled.get("resampled_tokens", 0)
        return {
            **described,
            "trajectory_scores": [round(each.score, 3) for each in context.judged],
            **truth_of_accepted(context.judged),
            **context.figures,
            **continued,
            **resampled,
            "tasks": [task.id for task in tasks],
            "demonstrations_failed": failed,
            "teacher": teacher,
            **learned,
            **published,
            "tokens_per_second": learned["computed_tokens"] / watch.seconds["learn"],
            "seconds": watch.seconds,
            "teacher_seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
        }

    def _context(self) -> Context:
        levels, tokenizer = self.parts.score_levels, self.parts.tokenizer
        return Context(self.update, self.config.updates, levels, tokenizer)

    def _learn(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        updates = self.config.updates
        progress = Progress(self.update / updates, (self.update + 1) / updates)
        learned = self.parts.learner.update(rows, self._seed_for("rows"), progress)
        _check_gap(learned.get("gap", 0.0))
        return learned

    def _play(self, tasks: Sequence[Task]) -> tuple[list[Group], dict[str, float]]:
        """The student plays each task as often as the algorithm wants, and again where a group
        teaches nothing to an algorithm that resamples; returns what that cost, too."""
        self.parts.policy.seed(self._seed_for("sampling"))
        groups, algorithm = self._groups(tasks), self.algorithm
        if not isinstance(algorithm, Resamples):
            return groups, {}
        again, tokens = 0, 0
        for _ in range(algorithm.resample):
            dull = [
                place for place, each in enumerate(groups) if not algorithm.is_informative(each)
            ]
            for place, group in zip(dull, self._groups([groups[place].task for place in dull])):
                tokens += sum(sample.written_tokens for sample in groups[place].samples)
                groups[place] = group
            again += len(dull)
        return groups, {"resampled_groups": again, "resampled_tokens": tokens}

    def _groups(self, tasks: Sequence[Task]) -> list[Group]:
        """One sample's place in the batch does not matter, since all are drawn from one stream."""
        samples = self.algorithm.needs.samples
        repeated = [task for task in tasks for _ in range(samples)]
        played = self.parts.rollout.play(repeated, temperature=self.config.rollout.temperature)
        return [
            Group(task, played[index * samples : (index + 1) * samples])
            for index, task in enumerate(tasks)
        ]

    def _demonstrate(self, groups: Sequence[Group], algorithm: Algorithm) -> int:
        """Ask for all the demonstrations of the update at once; returns how many did not come, or
        are longer than the student may play."""
        wanted = [
            group
            for group in groups
            for _ in range(demonstrations_wanted(algorithm, group.samples))
        ]
        needs = self.algorithm.needs
        shown = self.parts.demonstrations.demonstrate(
            [group.task for group in wanted],
            scored=needs.demonstration_scores,
            rewarded=needs.demonstration_rewards,
        )
        failed = 0
        for group, episode in zip(wanted, shown, strict=True):
            trajectory = episode and self.parts.rollout.tokenized(episode)
            if trajectory and len(trajectory.ids) <= self.config.rollout.max_length:
                group.demonstrations.append(trajectory)
            else:
                failed += 1
        return failed

    def _continue(self, groups: Sequence[Group], algorithm: Algorithm) -> dict[str, float]:
        """Let the teacher play on the samples that the algorithm cuts, all at once."""
        if not isinstance(algorithm, Continues):
            return {}
        cuts = [Cut(group, *each) for group in groups for each in algorithm.cuts(group)]
        return continue_samples(cuts, self.parts.demonstrations, self.parts.rollout)

    def _seed_for(self, purpose: str) -> int:
        """A random seed for one purpose in this update, the same whenever the run is resumed."""
        return random.Random(f"{purpose} {self.config.seed} {self.update}").getrandbits(31)

    def _resume(self) -> None:
        try:
            state = load_checkpoint(
                self.config.out / "checkpoints", self.parts.model, self.parts.learner
            )
            self.update, self.seconds = state["update"], state["seconds"]
            self._saved = self.update
            if isinstance(self.algorithm, Stateful):
                self.algorithm.load_state_dict(state["algorithm"])
        except FileNotFoundError:
            pass  # a new run, or one stopped before its first checkpoint
        self._alarms.history += [
            line for line in read_log(self.config.out / "log.jsonl") if line["update"] < self.update
        ]
        # Also at the beginning: a server may still hold the weights of another run.
        self.parts.publish()

    def _save(self, *, best: bool = False) -> None:
        state: dict[str, Any] = {"update": self.update, "seconds": self.seconds}
        if isinstance(self.algorithm, Stateful):
            state["algorithm"] = self.algorithm.state_dict()
        save_checkpoint(
            self.config.out / "checkpoints",
            self.parts.model,
            self.parts.tokenizer,
            self.parts.learner,
            state,
            keep=1 if self.update == self.config.updates else 2,
            best=best,
            number=self.update,
        )
        self._saved = self.update

    def _evaluation_is_due(self) -> bool:
        every, last = self.config.eval_every, self.config.updates
        return self.update in (0, last) or bool(every and self.update % every == 0)

    def _evaluate(self, log: RunLog) -> None:
        start = time.perf_counter()
        held_out = self.parts.held_out
        with log.playing(len(held_out)) as finished:
            result, trajectories = evaluate(self.parts.evaluation, held_out, on_finished=finished)
        name = "before" if self.update == 0 else "after"
        episodes = (trajectory.episode for trajectory in trajectories)
        write_episodes(self.config.out / f"episodes_{name}.jsonl", episodes)
        seconds = time.perf_counter() - start
        if self.update:
            self._keep_if_best(result["em"])
        teacher, _ = self._costs.taken()
        log.evaluation(
            self.update, {"split": "test", **result, "seconds": seconds, "teacher": teacher}
        )

    def _keep_if_best(self, em: float) -> None:
        """Point `best` at these weights where no earlier evaluation since training began was as
        good."""
        before = read_log(self.config.out / "eval.jsonl")
        if any(record["em"] >= em for record in before if record["update"]):
            return
        root = self.config.out / "checkpoints"
        if self._saved == self.update:
            point(root, BEST, latest_checkpoint(root))
        else:
            self._save(best=True)

    def _summarise(self) -> dict[str, Any]:
        evaluations = read_log(self.config.out / "eval.jsonl")
        updates = read_log(self.config.out / "log.jsonl")
        ledger = ("student_tokens", "teacher_tokens", "demonstrations")
        ledger += ("trained_tokens", "computed_tokens", "optimizer_steps")
        teacher = total([line["teacher"] for line in [*updates, *evaluations]])
        summary = {
            "env": self.config.environment().name,
            "algorithm": ALGORITHMS.choose(self.config.algorithm).name,
            "student": self.config.student,
            "seed": self.config.seed,
            "em_before": evaluations[0]["em"],
            "em_after": evaluations[-1]["em"],
            "before": evaluations[0],
            "after": evaluations[-1],
            "acceptance": [line.get("acceptance") for line in updates],
            **{name: sum(line[name] for line in updates) for name in ledger},
            "distinct_tasks": _distinct(updates, "tasks"),
            "distinct_demonstrations": _distinct(updates, "demonstrated"),
            "score_calls": sum(line["teacher"]["scores"] for line in updates),
            "teacher": teacher,
            "stage_seconds": total([line["seconds"] for line in updates]),
            "teacher_seconds": total([line["teacher_seconds"] for line in updates]),
            "updates": len(updates),
            "untrained_updates": sum(not line["optimizer_steps"] for line in updates),
            "seconds": self.seconds,
            "threads": torch.get_num_threads(),
            "precision": self.parts.precision,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": sys.version.split()[0],
        }
        write_atomically(self.config.out / "summary.json", json.dumps(summary, indent=2))
        return summary


def _one_rejection(context: Context) -> dict[str, Any] | None:
    for each in context.judged:
        if each.replacement is not None:
            return {
                "update": context.update,
                "score": each.score,
                "threshold": context.figures.get("threshold"),
                "rejected": json.loads(each.sample.episode.to_json()),
                "replacement": json.loads(each.replacement.episode.to_json()),
            }
    return None


def _distinct(updates: Sequence[Mapping[str, Any]], name: str) -> int:
    """How many different tasks the updates name."""
    return len({task for line in updates for task in line[name]})


def _check_gap(gap: float) -> None:
    if not gap <= MAX_GAP:
        raise PolicyUnavailable(
            f"the policy's log-probabilities differ from the learner's by {gap:.3g} a sampled token"
            f" on average, expected at most {MAX_GAP}: it plays with other weights, another"
            " temperature or another top_p"
        )
