"""`ovd train --engine verl`: a run whose updates verl makes, on the GPUs of one node or of several.

verl brings Ray, sharding, the engines that generate, checkpoints and loggers; a `RowManager` plays,
asks the teacher and says what each token contributes. Its synchronous trainer is subclassed: the
advantages are our streams, and the loss is that of the rows.
"""

# verl needs an environment of its own, so its modules are not there for the type checker.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUntypedClassDecorator=false

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import transfer_queue as tq
from hydra import compose, initialize_config_module
from torch.utils.data import Dataset
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from ovd_agent.algorithms import choose_algorithm
from ovd_agent.algorithms.base import Stateful
from ovd_agent.engines import VerlOptions
from ovd_agent.engines.verl_rows import (
    STREAMS,
    padded_streams,
    readable,
    rows_loss,
    stream_names,
)
from ovd_agent.engines.verl_source import TASK, RowManager, nested
from ovd_agent.learner.rows import ADVANTAGE
from ovd_agent.models import TINY, checkpoint_path
from ovd_agent.runs.assemble import check_no_frozen, chosen_algorithm, losses_of
from ovd_agent.runs.config import TrainConfig
from ovd_agent.runs.folder import held
from ovd_envs.errors import OptionError

MODE = "ovd"
FOLDER = "verl"


class VerlRun:
    """A run of `TrainConfig` by verl."""

    def __init__(self, options: VerlOptions, config: TrainConfig) -> None:
        check(config)
        self.config, self.verl = config, verl_config(options, config)

    def run(self) -> dict[str, Any]:
        """Train to the end, or from verl's last checkpoint.

        Raises OptionError if another process trains in the run's folder.
        """
        with held(self.config.out):
            self.config.save()
            run_ppo(self.verl, task_runner_class=_Runner(self.config))
        return {"student": self.config.student, "checkpoints": str(self.config.out / FOLDER)}


class _Runner:
    """What `run_ppo` takes for the class of its actor, which here is told our configuration."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def remote(self) -> Any:
        actor: Any = ray.remote(OVDTaskRunner)
        return actor.remote(self._config)


class OVDTaskRunner(TaskRunnerV1.__ray_actor_class__):
    """verl's task runner, whose trajectories come from a `RowManager`."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.ovd = config

    def init_agent_loop_manager(self) -> None:
        workers = int(self.config.actor_rollout_ref.rollout.agent.num_workers)
        self.agent_loop_manager = RowManager(self.ovd, self.trainer.get_llm_client(), workers)
        self.trainer.use_rows(self.ovd)


@register_trainer(MODE)
class OVDTrainer(PPOTrainerSync):
    """verl's synchronous trainer, with the streams of our rows and their loss."""

    def __init__(self, config: Any) -> None:
        config.trainer.v1.trainer_mode = "sync"  # which it and its replay buffer compare with
        super().__init__(config)

    def use_rows(self, config: TrainConfig) -> None:
        """Let the workers' loss be that of the rows of a run."""
        losses = readable(losses_of(choose_algorithm(config.algorithm).build()))
        self._streams = stream_names(losses)
        self.actor_rollout_wg.set_loss_fn(partial(rows_loss, losses=losses))

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["extra_fields", "response_mask"],
        )
        columns = row_columns(
            data, [tag.get("is_padding", False) for tag in batch.tags], self._streams
        )
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=nested(columns, len(batch))
        )

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        figures = self.agent_loop_manager.figures
        metrics |= {
            f"ovd/{name}": value
            for name, value in figures.items()
            if isinstance(value, int | float)
        }


def row_columns(data: Any, fillers: Sequence[bool], names: Sequence[str]) -> dict[str, Any]:
    """The streams of a batch, row by row, and the advantages by the names that verl's metrics ask
    for; those of verl's fillers are empty."""
    lengths = data["response_mask"].offsets().diff().tolist()
    extra = data.get("extra_fields").tolist()
    streams = [
        {} if filler else fields.get(STREAMS, {})
        for fields, filler in zip(extra, fillers, strict=True)
    ]
    columns = padded_streams(streams, lengths, list(dict.fromkeys([*names, ADVANTAGE])))
    return {**columns, "advantages": columns[ADVANTAGE], "returns": columns[ADVANTAGE]}


class Tasks(Dataset[dict[str, Any]]):
    """The tasks of a run as verl's dataset: a prompt is the number of a task."""

    def __init__(self, data_files: Any, config: Any, **others: Any) -> None:
        del others
        [count] = data_files
        self._count = int(count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {TASK: place, "index": place, "raw_prompt": []}


def check(config: TrainConfig) -> None:
    """Raises OptionError for options that verl's trainer cannot follow."""
    if config.learner.loss_per != "tokens":
        raise OptionError(
            f"learner.loss_per={config.learner.loss_per!r}: engine verl divides by the tokens of an"
            ' optimiser step; give "tokens"'
        )
    if config.tasks_per_update % config.learner.minibatches:
        raise OptionError(
            f"tasks_per_update={config.tasks_per_update}: engine verl expects a multiple of"
            f" learner.minibatches={config.learner.minibatches}"
        )
    if config.student == TINY:
        raise OptionError(
            f"student {TINY!r} has no files, which verl's processes load: give a checkpoint's"
            " folder, or an id on the Hub"
        )
    if config.lora.rank:
        raise OptionError(
            "lora.rank: give verl's own option, --engine.overrides"
            " actor_rollout_ref.model.lora_rank=16"
        )
    algorithm = chosen_algorithm(config, config.environment().build()[0])
    check_no_frozen(algorithm)
    if isinstance(algorithm, Stateful):
        raise OptionError(
            "the algorithm keeps a state between updates, which verl does not save: train it by"
            " --engine local"
        )


def verl_config(options: VerlOptions, config: TrainConfig) -> Any:
    """verl's configuration of a run: ours by verl's names, then `options.overrides`."""
    scenario, tasks = config.environment().build()
    held_out = config.held_out(config.eval_count, teacher=None, reward="outcome").build()[1]
    algorithm = chosen_algorithm(config, scenario)
    samples = max(1, algorithm.needs.samples)
    learner, rollout = config.learner, config.rollout
    student, actor = "actor_rollout_ref", "actor_rollout_ref.actor"
    ours = {
        "data.custom_cls.path": f"pkg://{__name__}",
        "data.custom_cls.name": Tasks.__name__,
        "data.train_files": f"[{len(tasks)}]",
        "data.val_files": f"[{min(config.eval_count, len(held_out))}]",
        "data.train_batch_size": config.tasks_per_update,
        "data.seed": config.seed,
        "data.dataloader_num_workers": 0,
        "data.max_prompt_length": rollout.max_length,
        "data.max_response_length": rollout.max_length,
        f"{student}.model.path": checkpoint_path(config.student),
        f"{student}.rollout.name": "vllm",
        f"{student}.rollout.n": samples,
        f"{student}.rollout.temperature": rollout.temperature,
        f"{student}.rollout.max_model_len": rollout.max_length,
        f"{student}.rollout.max_num_seqs": rollout.slots,
        f"{student}.rollout.tensor_model_parallel_size": 1,
        f"{student}.rollout.agent.num_workers": options.workers,
        f"{actor}.ppo_mini_batch_size": config.tasks_per_update // learner.minibatches,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": options.tokens_per_gpu,
        f"{actor}.checkpoint.save_contents": "[model,optimizer,extra,hf_model]",
        f"{actor}.checkpoint.load_contents": "[model,optimizer,extra]",
        f"{actor}.optim.clip_grad": learner.max_grad_norm,
        f"{actor}.optim.lr": learner.learning_rate,
        f"{actor}.optim.weight_decay": learner.weight_decay,
        f"{actor}.optim.betas": f"[{learner.betas[0]},{learner.betas[1]}]",
        f"{actor}.optim.lr_warmup_steps": learner.warmup_steps,
        # verl has no linear decay.
        f"{actor}.optim.lr_scheduler_type": "constant" if learner.decay == "none" else "cosine",
        f"{actor}.optim.min_lr_ratio": 0.1,
        "algorithm.adv_estimator": "grpo",
        "trainer.v1.trainer_mode": MODE,
        "trainer.total_training_steps": config.updates,
        "trainer.total_epochs": config.updates,
        "trainer.save_freq": config.checkpoint_every,
        "trainer.test_freq": config.eval_every or config.updates,
        "trainer.default_local_dir": (config.out / FOLDER).resolve(),
        "trainer.project_name": "ovd",
        "trainer.experiment_name": config.out.name,
        "trainer.logger": f"[{','.join(['console', *config.loggers])}]",
        "trainer.n_gpus_per_node": options.gpus_per_node,
        "trainer.nnodes": options.nodes,
    }
    with initialize_config_module("verl.trainer.config", version_base=None):
        named = [f"{name}={value}" for name, value in ours.items()]
        return compose("ppo_trainer", overrides=[*named, *options.overrides])
