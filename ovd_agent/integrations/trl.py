"""TRL's GRPOTrainer on our environments.

    from trl import GRPOConfig, GRPOTrainer
    from ovd_agent.integrations.trl import dataset, reward, rollout_func

    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, args=args, train_dataset=dataset("ovd/WebQA-v0"),
        reward_funcs=reward, rollout_func=rollout_func("ovd/WebQA-v0", tokenizer),
    )

The student plays whole episodes by our engine, batched; what the environment says is masked. TRL's
own advantages, losses and optimiser follow. To train by an algorithm of this suite instead, use
`ovd_agent.engines.trl`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ovd_agent.policies.torch_policy import TorchPolicy
from ovd_agent.rollouts.rollout import Rollout
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.episode import Task
from ovd_envs.grammar import tagged
from ovd_envs.registry import make_scenario
from ovd_envs.scenario import Scenario

RolloutFunc = Callable[[list[Any], Any], dict[str, list[Any]]]


def dataset(env_id: str, *, tools: bool = False, **options: Any) -> Dataset:
    """A row for each task: its prompt, by which `rollout_func` finds the task again; with `tools`,
    the prompt as a message and the task's id, as `environment_factory` needs them."""
    if not tools:
        scenario, tasks = make_scenario(env_id, **options)
        return Dataset.from_dict({"prompt": [scenario.prompt(task) for task in tasks]})
    scenario, tasks = make_scenario(env_id, prompt="tools", **options)
    prompts = [[{"role": "user", "content": scenario.prompt(task)}] for task in tasks]
    return Dataset.from_dict({"prompt": prompts, "task_id": [task.id for task in tasks]})


def rollout_func(
    env_id: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    slots: int = 64,
    max_length: int = 1024,
    max_new_tokens: int = 64,
    **options: Any,
) -> RolloutFunc:
    """A `rollout_func` that plays the tasks of the prompts; `options` are those of the environment.

    It returns `prompt_ids`, `completion_ids`, `logprobs` and `env_mask`, and for reward functions
    `env_reward` and `verbal_scores`. An episode that a failed service ended has the reward None,
    which TRL leaves out.
    """
    scenario, tasks = make_scenario(env_id, on_error="mark", **options)
    by_prompt = {scenario.prompt(task): task for task in tasks}

    def play(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        training = model.training
        model.eval()
        policy = TorchPolicy(
            model, tokenizer, slots=slots, max_length=max_length, seed=trainer.state.global_step
        )
        rollout = Rollout(
            scenario, policy, tokenizer,
            slots=slots, max_length=max_length, max_new_tokens=max_new_tokens,
        )  # fmt: skip
        found = [_task(by_prompt, scenario, prompt) for prompt in prompts]
        played = rollout.play(found, temperature=trainer.args.temperature)
        model.train(training)
        return _as_columns(played)

    return play


def environment_factory(env_id: str, **options: Any) -> Callable[[], Any]:
    """An `environment_factory`: TRL's own loop plays, by calls of the tools `search` and `answer`.

    Rows of the data set need the column `task_id`, which `dataset(..., tools=True)` has, so that
    the copies of a group play the same task. Each call is one turn; TRL does not batch them. Set
    `max_tool_calling_iterations` to the environment's `max_turns`.
    """
    scenario, tasks = make_scenario(env_id, prompt="tools", **options)
    by_id = {task.id: task for task in tasks}

    class Environment:
        """One episode; whatever is public is offered to the student as a tool."""

        def reset(self, task_id: str, **_: Any) -> None:
            """Begin the episode of a task."""
            [self._episode] = scenario.begin([by_id[task_id]])

        def search(self, query: str) -> str:
            """Search for passages.

            Args:
                query: A few words to search for.
            """
            return self._play("search", query)

        def answer(self, text: str) -> str:
            """Give the answer; the episode ends.

            Args:
                text: The answer, a few words.
            """
            return self._play("answer", text)

        def get_reward(self) -> float:
            """What the episode earned."""
            return sum(turn.reward or 0.0 for turn in self._episode.turns)

        def _play(self, tag: str, content: str) -> str:
            if self._episode.done:
                return "The episode is over."
            [turn] = scenario.advance([self._episode], [tagged(tag, content)])
            return turn.observation.strip() or "The episode is over."

    return Environment


def reward(completions: Sequence[Any], env_reward: Sequence[Any], **_: Any) -> list[Any]:
    """The environment's own reward."""
    return list(env_reward)


def _as_columns(played: Sequence[Trajectory]) -> dict[str, list[Any]]:
    rollouts = [each.as_rollout() for each in played]
    columns = {
        name: [each[name] for each in rollouts]
        for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask")
    }
    return {
        **columns,
        "env_reward": [each["reward"] for each in rollouts],
        "verbal_scores": [each.episode.expected_scores for each in played],
    }


def _task(by_prompt: dict[str, Task], scenario: Scenario, prompt: Any) -> Task:
    text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
    if text not in by_prompt:
        raise ValueError(
            f"no task has the prompt {text[:80]!r}: make the data set with the same options, by"
            " ovd_agent.integrations.trl.dataset"
        )
    return by_prompt[text]
