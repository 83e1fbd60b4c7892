"""TRL's GRPOTrainer on our environment: its advantages, losses and optimiser, our episodes.

    python examples/trl_grpo.py --student runs/math/best --steps 50
    python examples/trl_grpo.py --student tiny --steps 2

Whole episodes are played by our rollout engine, many at a time, and what the environment says is
masked. To train by OVD on several GPUs instead, use `ovd train --engine trl`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import tyro
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportPrivateImportUsage]

from ovd_agent import load_model
from ovd_agent.integrations.trl import dataset, reward, rollout_func
from ovd_agent.models import student_path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is experimental there


@dataclass(frozen=True)
class Options:
    """Train a student by TRL's GRPO."""

    student: str = "smollm2"
    env: str = "ovd/Math-v0"
    steps: int = 50
    samples: int = 4
    tasks: int = 8
    """Tasks a step; each is played `samples` times."""
    learning_rate: float = 1e-5
    max_length: int = 600
    max_new_tokens: int = 24
    out: str = "runs/trl"


def main(options: Options) -> None:
    model, tokenizer = load_model(student_path(options.student))
    arguments = GRPOConfig(
        options.out,
        per_device_train_batch_size=options.samples * options.tasks,
        num_generations=options.samples,
        max_steps=options.steps,
        learning_rate=options.learning_rate,
        max_completion_length=options.max_length,
        gradient_checkpointing=False,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=arguments,
        train_dataset=dataset(options.env),
        reward_funcs=reward,
        rollout_func=rollout_func(
            options.env,
            tokenizer,
            max_length=options.max_length,
            max_new_tokens=options.max_new_tokens,
        ),
    )
    trainer.train()
    trainer.save_model(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
