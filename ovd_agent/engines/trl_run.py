"""`ovd train --engine trl`: a run whose updates TRL makes, by one process or by several.

Each process plays its share of an update's tasks; the first writes the run's folder, which is that
of any other run. TRL's own checkpoints lie in `trl/`, from which the same command resumes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from ovd_agent.algorithms.base import Stateful
from ovd_agent.engines import TRLOptions
from ovd_agent.engines.base import LossByRows, full_weights, gathered, interleaved, joined
from ovd_agent.engines.trl import RowTrainer, trl_arguments
from ovd_agent.learner.checkpoint import save_checkpoint
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.policies import POLICIES
from ovd_agent.report.run import write_report
from ovd_agent.runs.assemble import assemble
from ovd_agent.runs.collect import Collected, Collector, Share, Stopwatch
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.costs import total
from ovd_agent.runs.evaluate import evaluate, summarise
from ovd_agent.runs.folder import held
from ovd_agent.runs.logs import PLAYED_FILE, REJECTIONS_FILE, RunLog, append_record
from ovd_agent.runs.metrics import peak_memory_mb
from ovd_agent.runs.summary import write_summary
from ovd_agent.runs.trainer import check_gap
from ovd_envs.episode import write_episodes
from ovd_envs.errors import OptionError

TRL_FOLDER = "trl"


class TRLRun:
    """A run of `TrainConfig` by TRL. It is also the `RowSource` of its trainer."""

    def __init__(self, options: TRLOptions, config: TrainConfig) -> None:
        state = PartialState(
            cpu=not torch.cuda.is_available()
        )  # joins the other processes, and takes this one's GPU
        self.share = Share(state.process_index, state.num_processes)
        self.config, self.main = config, state.is_main_process
        _check(config, self.share)
        self.parts = assemble(_config_of(config, self.share))
        if isinstance(self.parts.algorithm, Stateful):
            raise OptionError(
                "the algorithm keeps a state between updates, which TRL does not save: train it by"
                " --engine local"
            )
        self.collector = Collector(config, self.parts, self.share)
        self.costs = self.parts.costs()
        self.log: RunLog | None = None
        self._collected: Collected | None = None
        self._watch, self._began = Stopwatch(), time.perf_counter()
        # Shards cannot play, so a whole copy of the student does.
        sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
        self.trained = copy.deepcopy(self.parts.model) if sharded else self.parts.model
        learner = self.parts.learner
        self.trainer = RowTrainer(
            self.trained,
            self,
            LossByRows(
                learner.losses,
                learner.temperature,
                config.learner.logit_budget,
                learner.references,
                # Where layers are gathered as they are run, all processes must run them as often.
                share_prefix=not (sharded or config.learner.gradient_checkpointing),
            ),
            config.learner,
            trl_arguments(
                str(config.out / TRL_FOLDER),
                config.learner,
                options,
                config.updates,
                save_steps=config.checkpoint_every * config.learner.minibatches,
                seed=config.seed,
            ),
            self.parts.tokenizer,
            seed=config.seed,
            on_update=self._log_update,
        )
        self.trainer.remove_callback(PrinterCallback)  # the run's log says more

    def run(self) -> dict[str, Any]:
        """Train to the end, or from TRL's last checkpoint; returns the summary, in the first
        process only.

        Raises OptionError if another process trains in the run's folder.
        """
        with held(self.config.out) if self.main else nullcontext():
            return self._run()

    def _run(self) -> dict[str, Any]:
        config = self.config
        if self.main:
            config.save()
        began = time.perf_counter()
        last = get_last_checkpoint(str(config.out / TRL_FOLDER)) if self._has_folder() else None
        done = int(last.rpartition("-")[2]) // config.learner.minibatches if last else 0
        with self._open_log(done) as self.log:
            if not done:
                self.publish(self.trained, 0)
                self._evaluate(0)
            self.trainer.train(resume_from_checkpoint=last)
            self.publish(self._unwrapped(), self.trainer.state.global_step)
            self._evaluate(config.updates)
        if not self.main:
            return {}
        state = {"update": config.updates, "seconds": time.perf_counter() - began}
        save_checkpoint(
            config.out / "checkpoints", self.parts.model, self.parts.tokenizer, None, state, keep=1,
            number=config.updates,
        )  # fmt: skip
        summary = write_summary(config, state["seconds"], self.parts.precision)
        write_report(config.out)
        return summary

    def collect(self, update: int) -> list[TrainingRow]:
        self._watch, self._began = Stopwatch(), time.perf_counter()
        self._collected = self.collector.collect(update, self._watch)
        return self._collected.rows

    def publish(self, model: PreTrainedModel, version: int) -> None:
        """Copy the weights of `model` to the one that plays, where that is another."""
        if model is not self.parts.model:
            weights = full_weights(self.trainer.accelerator.unwrap_model(model))
            load: Any = self.parts.model.load_state_dict
            load(weights)
        self.parts.policy.publish(self.parts.model, version)

    def _unwrapped(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.trainer.accelerator.unwrap_model(self.trainer.model))

    def _has_folder(self) -> bool:
        return (self.config.out / TRL_FOLDER).is_dir()

    def _open_log(self, done: int) -> AbstractContextManager[RunLog | None]:
        if not self.main:
            return nullcontext()
        log = RunLog(
            self.config.out,
            self.config.updates,
            resume_from=done,
            loggers=self.config.loggers,
            config=self.config.record(),
        )
        log.say(
            f"{self.config.student}: {self.parts.precision}, {self.share.ranks} process"
            f"{'es' if self.share.ranks > 1 else ''} of TRL"
        )
        return log

    def _evaluate(self, update: int) -> None:
        """Every process plays its share of the held-out tasks; the first writes what came of it."""
        begun = time.perf_counter()
        held_out = self.parts.held_out
        told: Callable[[int], None] = lambda count: None  # noqa: E731
        with self.log.playing(len(held_out)) if self.log else nullcontext(told) as finished:
            played = evaluate(
                self.parts.evaluation,
                self.share.of(held_out),
                on_finished=lambda count: finished(count * self.share.ranks),
            )[1]
        episodes = interleaved(gathered([each.episode for each in played]))
        teacher = total(gathered(self.costs.taken()[0]))
        if self.log is None or update in self.log.evaluated:
            return
        name = "after" if update else "before"
        write_episodes(self.config.out / f"episodes_{name}.jsonl", iter(episodes))
        seconds = time.perf_counter() - begun
        result = {"split": "test", **summarise(episodes), "seconds": seconds, "teacher": teacher}
        self.log.evaluation(update, result)

    def _log_update(self, update: int, learned: dict[str, float]) -> None:
        collected = cast(Collected, self._collected)
        self._watch.seconds["total"] = time.perf_counter() - self._began
        spent = sum(seconds for name, seconds in self._watch.seconds.items() if name != "total")
        self._watch.seconds["learn"] += self._watch.seconds["total"] - spent
        check_gap(learned.get("gap", 0.0))
        teacher, seconds = self.costs.taken()
        figures = joined(gathered(collected.figures))
        played = gathered(collected.episodes() if self.config.keep_episodes else [])
        teacher = total(gathered(teacher))
        if self.log is None:
            return
        self.log.log(
            update,
            {
                **figures,
                "teacher": teacher,
                **learned,
                "tokens_per_second": learned["computed_tokens"] / self._watch.seconds["learn"],
                "seconds": self._watch.seconds,
                "teacher_seconds": seconds,
                "peak_memory_mb": peak_memory_mb(),
            },
        )
        append_record(self.config.out / PLAYED_FILE, *(each for rank in played for each in rank))
        if (rejection := collected.rejection()) is not None:
            append_record(self.config.out / REJECTIONS_FILE, rejection)


def _check(config: TrainConfig, share: Share) -> None:
    """Raises OptionError for what several processes cannot share."""
    if config.tasks_per_update % share.ranks:
        raise OptionError(
            f"tasks_per_update={config.tasks_per_update}: expected a multiple of {share.ranks}, the"
            " number of processes"
        )
    if config.learner.weights != "float32":
        raise OptionError(
            "learner.weights: engine trl takes mixed precision from accelerate's file"
        )
    if config.eval_every:
        raise OptionError("eval_every: engine trl evaluates before and after training only; give 0")
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if config.lora.rank:
            raise OptionError("lora.rank: adapters fit one GPU, so train them by DDP, without FSDP")
    elif parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise OptionError("engine trl shards by FSDP2; DeepSpeed is not supported")


def _config_of(config: TrainConfig, share: Share) -> TrainConfig:
    """The configuration of one process: its own servers, and its own folder for weights."""
    own = config.out / "ranks" / str(share.rank) if share.rank else config.out
    choice = POLICIES.choose(config.policy)
    urls: tuple[str, ...] = getattr(choice.options, "urls", ())
    if not urls:
        return replace(config, out=own)
    if len(urls) < share.ranks:
        raise OptionError(
            f"policy: {len(urls)} servers for {share.ranks} processes: expected one each, or more"
        )
    mine = replace(choice.options, urls=urls[share.rank :: share.ranks])
    return replace(config, policy=replace(choice, options=mine), out=own)
