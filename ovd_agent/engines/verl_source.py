"""The rows of an update, played on verl's servers: what stands in the place of its agent loops."""

# verl needs an environment of its own, so its modules are not there for the type checker.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import queue
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import ray
import torch
import transfer_queue as tq
from transformers import AutoTokenizer, PreTrainedModel

from ovd_agent.engines.base import joined
from ovd_agent.engines.verl_rows import readable, row_fields, trajectory_fields
from ovd_agent.models import checkpoint_path
from ovd_agent.policies.base import Completion, PolicyUnavailable, Sampling
from ovd_agent.policies.vllm_policy import check_context, request_options
from ovd_agent.rollouts.group import Group
from ovd_agent.runs.assemble import assemble_source, losses_of
from ovd_agent.runs.collect import Collected, Collector, Share, Stopwatch
from ovd_agent.runs.config import TrainConfig
from ovd_envs.episode import Task

TASK, ROWS = "ovd_task", "rows"
"""The field of a prompt that says which task it is; and the figure of how many rows there are."""
TRAIN, VALIDATION = "train", "val"
"""verl's names of the two parts of its queue."""


class VerlPolicy:
    """verl's servers as a `TrainedPolicy`: requests are coroutines of the worker's event loop, and
    the rollout waits for them in a thread of its own."""

    def __init__(self, client: Any, max_length: int, ends: Sequence[int]) -> None:
        self.version, self.max_length = 0, max_length
        self._client, self._ends, self._seed = client, sorted(ends), 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session = uuid4().hex
        self._finished: queue.Queue[tuple[int, Completion | Exception]] = queue.Queue()
        self._running: dict[int, Any] = {}

    def at(self, loop: asyncio.AbstractEventLoop, version: int) -> None:
        """Send requests by `loop`, to servers whose weights are those of `version`."""
        self._loop, self.version = loop, version
        self._session = uuid4().hex  # one server an episode, for its prefix cache

    def seed(self, seed: int) -> None:
        self._seed = seed

    def submit(self, key: int, context: Sequence[int], sampling: Sampling) -> None:
        check_context(context, self.max_length)
        assert self._loop is not None
        options = request_options(self._seed, key, context, sampling, self.max_length, self._ends)
        request = self._generate(key, list(context), {**options, "logprobs": True})
        self._running[key] = asyncio.run_coroutine_threadsafe(request, self._loop)

    async def _generate(self, key: int, context: list[int], options: dict[str, Any]) -> None:
        most = options["max_tokens"]
        try:
            output = await self._client.generate(
                request_id=f"{self._session}-{key}", prompt_ids=context, sampling_params=options
            )
            if output.stop_reason == "aborted" or output.log_probs is None:
                raise PolicyUnavailable(f"a server of verl gave up: {output.stop_reason}")
            ids = list(output.token_ids)
            finish = "stop" if len(ids) < most or ids[-1] in self._ends else "length"
            found = Completion(ids, list(output.log_probs), finish, self.version)
        except Exception as error:
            self._finished.put((key, error))
        else:
            self._finished.put((key, found))

    def collect(self, at_least: int = 1) -> list[tuple[int, Completion]]:
        finished: list[tuple[int, Completion]] = []
        while self._running and len(finished) < at_least:
            key, found = self._finished.get()
            if self._running.pop(key, None) is None:
                continue  # it was released
            if isinstance(found, Exception):
                raise found
            finished.append((key, found))
        return finished

    def release(self, key: int) -> None:
        request = self._running.pop(key, None)
        if request is not None:
            request.cancel()

    def publish(self, model: PreTrainedModel, version: int) -> dict[str, float]:
        raise NotImplementedError("verl's trainer gives weights to its servers")

    def rest(self) -> None:
        """verl's trainer lets its servers sleep."""


class RowWorker:
    """Plays a share of an update's tasks and puts the rows into verl's queue; an actor of Ray."""

    def __init__(self, config: TrainConfig, client: Any, share: Share) -> None:
        tq.init()
        self._policy, self._collector = collector_on(config, client, share)
        self._source = config.environment().name
        self._losses = readable(losses_of(self._collector.algorithm))

    async def collect(
        self, prompts: Sequence[Mapping[str, Any]], step: int, validate: bool
    ) -> dict[str, Any]:
        """Play the tasks that `prompts` name, for the training step number `step`, counted from 1.

        Returns the number of rows and, for tasks to learn from, figures of how they came about.
        """
        self._policy.at(asyncio.get_running_loop(), step)
        if validate:
            rows, figures = await asyncio.to_thread(self._evaluated, prompts), {}
        else:
            rows, figures = await asyncio.to_thread(self._collected, prompts, step - 1)
        put(rows, VALIDATION if validate else TRAIN, step)
        return {**figures, ROWS: len(rows)}

    def _collected(
        self, prompts: Sequence[Mapping[str, Any]], update: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        parts = self._collector.parts
        tasks = [parts.tasks[int(prompt[TASK])] for prompt in prompts]
        collected = self._collector.collect(update, Stopwatch(), tasks)
        return self._rows(prompts, tasks, collected), collected.figures

    def _rows(
        self, prompts: Sequence[Mapping[str, Any]], tasks: Sequence[Task], collected: Collected
    ) -> list[dict[str, Any]]:
        uids = {task.id: prompt["uid"] for prompt, task in zip(prompts, tasks, strict=True)}
        earned = {group.task.id: mean_reward(group) for group in collected.groups}
        found: list[dict[str, Any]] = []
        for row in collected.rows:
            turns = 0 if row.turns is None else int(row.turns.max()) + 1
            fields = row_fields(row, self._losses, reward=earned[row.group], turns=turns)
            found += [{**fields, "uid": uids[row.group]}] * row.copies
        return found

    def _evaluated(self, prompts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        parts = self._collector.parts
        tasks = [parts.held_out[int(prompt[TASK])] for prompt in prompts]
        found: list[dict[str, Any]] = []
        for prompt, played in zip(prompts, parts.evaluation.play(tasks, temperature=0)):
            correct = played.episode.exact_match
            if correct is None:
                continue  # a service failed, which says nothing of the student
            start, turns = played.segments[0].end, len(played.episode.turns)
            fields = trajectory_fields(played.ids, start, correct, turns)
            names = {"reward_model": {}, "data_source": self._source, "uid": prompt["uid"]}
            found.append({**fields, **names})
        return found


def mean_reward(group: Group) -> float:
    """Of a task's plays, without those whose services failed; for verl's metrics alone."""
    rewards = [each.reward for each in group.samples if each.episode.end_reason != "infrastructure"]
    return sum(rewards) / len(rewards) if rewards else 0.0


def collector_on(config: TrainConfig, client: Any, share: Share) -> tuple[VerlPolicy, Collector]:
    """A collector that plays on the servers behind `client`."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path(config.student))
    policy = VerlPolicy(client, config.rollout.max_length, [tokenizer.eos_token_id])
    parts = assemble_source(config, policy, tokenizer)
    return policy, Collector(config, parts, share)


def put(rows: Sequence[dict[str, Any]], partition: str, step: int) -> None:
    """Put rows into verl's queue, and say of each prompt that nothing more comes of it."""
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    if not rows:
        return
    counts: dict[str, int] = {}
    keys: list[str] = []
    tags: list[dict[str, Any]] = []
    for row in rows:
        uid = row["uid"]
        keys.append(f"{uid}_{counts.setdefault(uid, 0)}_0")
        counts[uid] += 1
        prompt, response = len(row["prompts"]), len(row["responses"])
        tags.append(
            {
                "status": "success",
                "prompt_len": prompt,
                "response_len": response,
                "seq_len": prompt + response,
                "global_steps": step,
                "min_global_steps": step - 1,
                "max_global_steps": step - 1,
            }
        )
    tq.kv_batch_put(
        keys=keys, fields=list_of_dict_to_tensordict(list(rows)), tags=tags, partition_id=partition
    )


class RowManager:
    """What verl's trainer asks for trajectories: workers that each play a share of the tasks."""

    def __init__(self, config: TrainConfig, client: Any, workers: int) -> None:
        own = replace(config, engine="local")  # a worker needs no engine
        actor: Any = ray.remote(RowWorker)
        self._workers = [actor.remote(own, client, Share(rank, workers)) for rank in range(workers)]
        self.figures: dict[str, Any] = {}
        """Of the update that was collected last."""

    def generate_sequences(self, prompts: Any) -> None:
        """Play every prompt of a batch; a fault of a worker is raised, and ends the run."""
        validate = bool(prompts["validate"]) if "validate" in prompts else False
        step = int(prompts["global_steps"])
        asked = [
            {"uid": uid, TASK: int(task)}
            for uid, task in zip(prompts["uid"], prompts[TASK], strict=True)
        ]
        shares = [asked[rank :: len(self._workers)] for rank in range(len(self._workers))]
        played = [
            worker.collect.remote(share, step, validate)
            for worker, share in zip(self._workers, shares, strict=True)
            if share
        ]
        found: list[dict[str, Any]] = ray.get(played)
        if not any(each[ROWS] for each in found):
            raise RuntimeError(
                f"nothing came of step {step}, which verl cannot skip: demonstrations fail or are"
                " longer than rollout.max_length, or services are down"
            )
        finished = [{"is_prompt": True, "status": "finished", "global_steps": step}] * len(asked)
        tq.kv_batch_put(
            keys=[prompt["uid"] for prompt in asked],
            tags=finished,
            partition_id=VALIDATION if validate else TRAIN,
        )
        if not validate:
            self.figures = joined(found)


def nested(columns: Mapping[str, Sequence[torch.Tensor]], count: int) -> Any:
    """Columns of jagged rows as verl's queue takes them."""
    from tensordict import TensorDict

    return TensorDict(
        {
            name: torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)
            for name, rows in columns.items()
        },
        batch_size=count,
    )
