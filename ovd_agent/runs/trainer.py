"""The training loop: tasks, episodes, trajectories, rows, update; readable top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ovd_agent.algorithms.base import Advises, Stateful
from ovd_agent.learner.checkpoint import load_checkpoint, save_checkpoint
from ovd_agent.learner.folders import BEST, latest_checkpoint, point
from ovd_agent.learner.learner import Progress
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.policies.base import PolicyUnavailable
from ovd_agent.report.run import write_report
from ovd_agent.runs.alarms import Alarms
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.collect import Collector, Stopwatch
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.evaluate import evaluate
from ovd_agent.runs.folder import held
from ovd_agent.runs.logs import PLAYED_FILE, REJECTIONS_FILE, RunLog, append_record, read_log
from ovd_agent.runs.metrics import peak_memory_mb
from ovd_agent.runs.summary import write_summary
from ovd_envs.episode import write_episodes

MAX_GAP = 0.25
"""Nats a token, as for the first probe of an engine's weights (policies/publish.py)."""


class Trainer:
    """A run: everything that `TrainConfig` describes, resumable at any update."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.parts = assemble(config)
        self.algorithm = self.parts.algorithm
        self.update = 0
        self.seconds = 0.0
        self._alarms = Alarms(config.rollout.max_length, self.parts.score_levels)
        self.collector = Collector(config, self.parts)
        self._costs = self.parts.costs()
        self._rejection: dict[str, Any] | None = None
        """A rejected play of the latest update beside what replaced it."""
        self._played: list[dict[str, Any]] = []
        self._saved: int | None = None
        """The update of the latest checkpoint."""

    def run(self) -> dict[str, Any]:
        """Train to the end (or from where a stopped run was left) and return the summary.

        Raises OptionError if another process trains in the run's folder.
        """
        with held(self.config.out):
            return self._run()

    def _run(self) -> dict[str, Any]:
        config = self.config
        config.save()
        self._resume()
        began = time.perf_counter() - self.seconds
        with RunLog(
            config.out,
            config.updates,
            resume_from=self.update,
            eval_every=config.eval_every,
            loggers=config.loggers,
            config=config.record(),
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
                append_record(config.out / PLAYED_FILE, *self._played)
                for advice in self._advice(metrics):
                    log.say(f"update {number + 1}: {advice}")
                self.seconds = time.perf_counter() - began
                if self.update % config.checkpoint_every == 0 or self.update == config.updates:
                    self._save()
        self.seconds = max(self.seconds, time.perf_counter() - began)
        summary = write_summary(config, self.seconds, self.parts.precision)
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
        collected = self.collector.collect(self.update, watch)
        with watch("learn"):
            learned = self._learn(collected.rows)
            published = self.parts.publish()
        self._rejection = collected.rejection()
        self._played = collected.episodes() if self.config.keep_episodes else []
        self.update += 1
        teacher, seconds = self._costs.taken()
        watch.seconds["total"] = time.perf_counter() - start
        return {
            **collected.figures,
            "teacher": teacher,
            **learned,
            **published,
            "tokens_per_second": learned["computed_tokens"] / watch.seconds["learn"],
            "seconds": watch.seconds,
            "teacher_seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
        }

    def _learn(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        updates = self.config.updates
        progress = Progress(self.update / updates, (self.update + 1) / updates)
        seed = self.collector.seed_for("rows", self.update)
        learned = self.parts.learner.update(rows, seed, progress)
        check_gap(learned.get("gap", 0.0))
        return learned

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


def check_gap(gap: float) -> None:
    if not gap <= MAX_GAP:
        raise PolicyUnavailable(
            f"the policy's log-probabilities differ from the learner's by {gap:.3g} a sampled token"
            f" on average, expected at most {MAX_GAP}: it plays with other weights, another"
            " temperature or another top_p"
        )
