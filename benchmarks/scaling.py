"""Seconds of an update on several GPUs, worked out from rates: `python benchmarks/scaling.py`.

A calculation, not a measurement: work in FLOP and bytes over the peak of a card times the share of
it that is assumed to be reached. Where your own share is known (benchmarks/gpu.py measures it),
give it: `--card.training 0.3`. It prints a table in Markdown for docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro


@dataclass(frozen=True)
class Model:
    """A dense transformer in bfloat16."""

    parameters: float
    layers: int
    kv_heads: int
    head: int = 128

    @property
    def bytes(self) -> float:
        return 2 * self.parameters

    @property
    def kv_bytes(self) -> float:
        """Of keys and values of a token."""
        return 2 * 2 * self.layers * self.kv_heads * self.head


QWEN = {
    "1.5b": Model(1.54e9, 28, 2),
    "7b": Model(7.62e9, 28, 4),
    "14b": Model(14.8e9, 48, 8),
    "32b": Model(32.8e9, 64, 8),
}


@dataclass(frozen=True)
class Card:
    """A GPU, and which share of its peak is assumed to be reached."""

    flops: float = 989e12
    bandwidth: float = 3.35e12
    memory: float = 72e9
    prefill: float = 0.5
    training: float = 0.4
    decoding: float = 0.7


@dataclass(frozen=True)
class Work:
    """An update."""

    tasks: int = 64
    samples: int = 8
    turns: int = 4
    prompt: int = 300
    written: int = 150
    """Tokens of a turn that the student, or the teacher in its place, writes."""
    passage: int = 600
    """Tokens that the environment answers, after all turns but the last."""
    acceptance: float = 0.5
    score_tokens: int = 40
    """Of the question that asks for a score."""
    shared_prefix: bool = True
    """The score prompt is the episode so far, then the question, so that a cache serves it."""

    @property
    def episodes(self) -> int:
        return self.tasks * self.samples

    @property
    def length(self) -> int:
        return self.prompt + self.turns * self.written + (self.turns - 1) * self.passage

    @property
    def read(self) -> int:
        return self.length - self.turns * self.written

    @property
    def scored(self) -> int:
        """Tokens that a teacher reads to score an episode."""
        if self.shared_prefix:
            return self.length + self.turns * self.score_tokens
        step = self.written + self.passage
        lengths = [self.prompt + self.written + turn * step for turn in range(self.turns)]
        return sum(length + self.prompt + self.score_tokens for length in lengths)


@dataclass(frozen=True)
class Layout:
    """GPUs that hold the teacher, learn, and serve the student; with 0 of the last, those that
    learn also play."""

    name: str
    teacher: int
    learner: int
    student: int = 0


@dataclass(frozen=True)
class Options:
    """A student of one size, a teacher of another."""

    student: str = "7b"
    teacher: str = "32b"
    card: Card = field(default_factory=Card)
    work: Work = field(default_factory=Work)
    tensor_parallel: int = 2
    """GPUs of one copy of the teacher."""


LAYOUTS = {
    8: [
        Layout("all learn and play, teacher elsewhere", 0, 8),
        Layout("teacher 3, learn and play 5", 3, 5),
        Layout("teacher 4, learn and play 4", 4, 4),
        Layout("teacher 6, learn and play 2", 6, 2),
        Layout("teacher 4, learn 3, student 1", 4, 3, 1),
    ],
    32: [
        Layout("teacher 12, learn and play 20", 12, 20),
        Layout("teacher 16, learn and play 16", 16, 16),
        Layout("teacher 24, learn and play 8", 24, 8),
        Layout("teacher 16, learn 12, student 4", 16, 12, 4),
    ],
}


def gpu_seconds(options: Options, scale: int) -> dict[str, float]:
    """GPU-seconds of each part of an update that is `scale` times `work`."""
    card, work = options.card, options.work
    student, teacher = QWEN[options.student], QWEN[options.teacher]
    episodes = work.episodes * scale
    rejected = episodes * (1 - work.acceptance)
    trained = 8 if student.parameters > 3e9 else 6  # checkpointing computes forward passes again
    return {
        "decode": decoding(student, episodes * work.turns * work.written, work.length / 2, card, 1),
        "prefill": 2 * student.parameters * episodes * work.read / (card.flops * card.prefill),
        "score": 2 * teacher.parameters * episodes * work.scored / (card.flops * card.prefill),
        "demonstrate": 2 * teacher.parameters * rejected * work.read / (card.flops * card.prefill)
        + decoding(
            teacher, rejected * work.turns * work.written, work.length / 2, card,
            options.tensor_parallel,
        ),
        "learn": trained * student.parameters * episodes * work.length
        / (card.flops * card.training),
    }  # fmt: skip


def decoding(model: Model, tokens: float, length: float, card: Card, cards: int) -> float:
    """GPU-seconds of writing `tokens`: each step reads the weights and all keys and values, with as
    many sequences as fit, 256 at most."""
    room = cards * card.memory - model.bytes - 4e9
    sequences = min(256.0, room / (model.kv_bytes * length))
    step = (model.bytes + sequences * length * model.kv_bytes) / (
        cards * card.bandwidth * card.decoding
    )
    return tokens / sequences * step * cards


def seconds(layout: Layout, work: dict[str, float]) -> dict[str, float]:
    """Of an update: the student plays while its steps are scored, then the teacher demonstrates,
    then the learner learns; `ahead` is one where the next update is played meanwhile."""
    play = (work["decode"] + work["prefill"]) / (layout.student or layout.learner)
    score = work["score"] / layout.teacher if layout.teacher else 0.0
    show = work["demonstrate"] / layout.teacher if layout.teacher else 0.0
    learn = work["learn"] / layout.learner
    found = {"play": play, "teach": score + show, "learn": learn}
    found["update"] = max(play, score) + show + learn
    own = [learn, play] if layout.student else [learn + play]
    found["ahead"] = max(score + show, *own)
    return found


def main(options: Options) -> None:
    print(
        f"Qwen2.5-{options.student} taught by {options.teacher}: {options.work.episodes} episodes"
        f" of {options.work.length} tokens an update on 8 GPUs, four times as many on"
        " 32. Seconds:\n"
    )
    print("| GPUs | layout | play | teach | learn | an update | one update ahead |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for count, layouts in LAYOUTS.items():
        work = gpu_seconds(options, count // 8)
        for layout in layouts:
            found = [f"{value:,.0f}" for value in seconds(layout, work).values()]
            print(f"| {count} | {layout.name} | {' | '.join(found)} |")
    parts = gpu_seconds(options, 1)
    total = ", ".join(f"{name} {value:,.0f}" for name, value in parts.items())
    print(f"\nGPU-seconds of an update on 8: {total}.")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
