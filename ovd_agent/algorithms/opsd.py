"""OPSD: the student teaches itself by what it would say if it were told more (arXiv 2601.18734,
and SDFT, arXiv 2601.19897).

The teacher of tokens is the same model, as the run began, whose prompt also holds the reference
answer, or a whole demonstration. It reads the student's own trajectory behind that prompt; what it
finds likelier than the student does is praised, as in `opd`. No other model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.of_tokens import check_sampled
from ovd_agent.algorithms.rows import distilled_row
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER, Distillation
from ovd_agent.rollouts.encoding import encode_prompt
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory

_ANSWER = "The correct answer is: {}"
_SHOWN = "Here is how someone solved it:\n{}"


@dataclass(frozen=True)
class OPSD:
    """Single-sample distillation from the student itself, told the answer or shown a solution."""

    teacher_model: str = ""
    """The model that is told, as `--student` takes it, with the student's tokenizer; empty: the
    student as the run began."""
    samples: int = 2
    """Student trajectories per task."""
    tells: Literal["answer", "demonstration"] = "demonstration"
    """What the teacher knows beside the question: its reference answer, or a demonstration."""
    first_tokens: int = 0
    """Teach only this many first tokens of a trajectory; 0: all."""
    clip_low: float = 0.2
    """Lower clip of the importance ratio: 1 - clip_low."""
    clip_high: float = 0.2
    """Upper clip of the importance ratio: 1 + clip_high."""

    def __post_init__(self) -> None:
        check_sampled(self.samples, self.first_tokens)
        _ = self.losses  # which check their own options

    @property
    def needs(self) -> Needs:
        told = Wants(Distillation.weight, self.teacher_model, told=True)
        return Needs(self.samples, {TEACHER: told})

    @property
    def losses(self) -> Sequence[LossComponent]:
        return (Distillation(self.clip_low, self.clip_high),)

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return int(self.tells == "demonstration")

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        told, rows = self._told(group), list[TrainingRow]()
        for sample in group.played if told else ():
            row = distilled_row(sample, Distillation.weight, self.first_tokens)
            prompt = f"{sample.episode.prompt.strip()}\n\n{told}"
            row.told = encode_prompt(context.tokenizer, prompt, context.template)
            rows.append(row)
        return rows

    def _told(self, group: Group) -> str:
        """Empty where nothing can be told: the demonstrator failed, or there is no answer."""
        if self.tells == "answer":
            return _ANSWER.format(group.task.answers[0]) if group.task.answers else ""
        if not group.demonstrations:
            return ""
        turns = group.demonstrations[0].episode.turns
        lines = [text.strip() for turn in turns for text in (turn.action, turn.observation)]
        return _SHOWN.format("\n".join(filter(None, lines)))
