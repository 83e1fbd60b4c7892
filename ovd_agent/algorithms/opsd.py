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
from ovd_agent.algorithms.opd import OPD
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.distillation import TEACHER, Distillation
from ovd_agent.losses.kl import START
from ovd_agent.rollouts.encoding import encode_prompt
from ovd_agent.rollouts.group import Group
from ovd_agent.rollouts.trajectory import Trajectory
from ovd_envs.errors import OptionError

_ANSWER = "The correct answer is: {}"
_SHOWN = "Here is how someone solved it:\n{}"


@dataclass(frozen=True)
class OPSD(OPD):
    """Single-sample distillation from the student itself, told the answer or shown a solution."""

    tells: Literal["answer", "demonstration"] = "demonstration"
    """What the teacher knows beside the question: its reference answer, or a demonstration."""

    def __post_init__(self) -> None:
        super().__post_init__()
        compares = self.entropy_above or self.asymmetric or self.closest != 1
        if compares or self.other_tokenizer:
            raise OptionError(
                "entropy_above, asymmetric, closest and other_tokenizer: a teacher that reads"
                " another prompt has no distribution beside the student's; leave them out"
            )

    @property
    def needs(self) -> Needs:
        wanted = {TEACHER: Wants(Distillation.weight, self.teacher_model, told=True)}
        if self.reward_scale != 1:
            wanted[START] = Wants(Distillation.weight)
        return Needs(self.samples, wanted)

    def check(self, score_levels: int) -> None:
        """Without a teacher_model it is the student."""

    def demonstrations(self, samples: Sequence[Trajectory]) -> int:
        return int(self.tells == "demonstration")

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        told = self._told(group)
        rows = super().rows(group, context) if told else []
        for row, sample in zip(rows, group.played, strict=bool(told)):
            prompt = f"{sample.episode.prompt.strip()}\n\n{told}"
            row.told = encode_prompt(context.tokenizer, prompt, context.template)
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
