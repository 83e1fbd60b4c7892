"""OPD: on-policy distillation from a single sample (reverse KL, as MiniLLM, arXiv 2306.08543).

The student plays; a token's advantage is log p_teacher - log p of the token that it sampled. In
expectation over the student's tokens that is the gradient of KL(student || teacher) at the contexts
that the student visits. The teacher reads each trajectory once, and one number a token is kept of
it. The environment's reward is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovd_agent.algorithms.base import Context, Needs
from ovd_agent.algorithms.of_tokens import OfTokens, check_sampled
from ovd_agent.algorithms.rows import distilled_row
from ovd_agent.learner.references import Wants
from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.base import LossComponent
from ovd_agent.losses.distillation import TEACHER, Distillation, ScaledDistillation
from ovd_agent.losses.divergence import Divergence
from ovd_agent.losses.kl import START
from ovd_agent.rollouts.group import Group
from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OPD(OfTokens):
    """Reverse KL to a teacher of tokens, by the log-probability of the sampled token."""

    first_tokens: int = 0
    """Teach only this many first tokens of a trajectory (arXiv 2602.15260); 0: all."""
    reward_scale: float = 1.0
    """What log p_teacher - log p_start counts against the KL to the student as the run began; above
    1 the student is driven past its teacher (G-OPD, arXiv 2602.12125)."""
    entropy_above: float = 0.0
    """Where the teacher's entropy, in nats, is at least this, KL(teacher || student) is added
    (arXiv 2603.07079); 0: nowhere."""
    asymmetric: bool = False
    """A token that the teacher finds less likely than the student is not punished; there
    KL(teacher || student) is lowered, which says what to do instead (AOPD, arXiv 2605.06387)."""
    other_tokenizer: bool = False
    """The teacher may have another tokenizer: it is asked for the text between places where a token
    ends in both, and each of the student's tokens there counts for all of it."""
    clip_low: float = 0.2
    """Lower clip of the importance ratio: 1 - clip_low."""
    clip_high: float = 0.2
    """Upper clip of the importance ratio: 1 + clip_high."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sampled(self.samples, self.first_tokens)
        if self.reward_scale <= 0:
            raise OptionError(f"reward_scale={self.reward_scale}: expected more than 0")
        if self.asymmetric and self.entropy_above:
            raise OptionError("asymmetric and entropy_above: choose one of them")
        if self.other_tokenizer and (self._diverges or self.reward_scale != 1 or self.closest != 1):
            raise OptionError(
                "other_tokenizer: expected no entropy_above, asymmetric, reward_scale or closest,"
                " which compare tokens one by one"
            )
        _ = self.losses  # which check their own options

    @property
    def losses(self) -> Sequence[LossComponent]:
        if not self._diverges:
            return (self._policy_gradient(),)
        added = Divergence(
            beta=0.0, entropy_above=self.entropy_above, where_punished=self.asymmetric
        )
        return (self._policy_gradient(), added)

    def _policy_gradient(self) -> Distillation:
        clip, praise = (self.clip_low, self.clip_high), self.asymmetric
        if self.reward_scale == 1:
            return Distillation(*clip, only_praise=praise)
        return ScaledDistillation(*clip, only_praise=praise, scale=self.reward_scale)

    @property
    def _diverges(self) -> bool:
        return self.asymmetric or self.entropy_above > 0

    @property
    def needs(self) -> Needs:
        wanted = {TEACHER: self.wants(Distillation.weight, aligned=self.other_tokenizer)}
        if self.reward_scale != 1:
            wanted[START] = Wants(Distillation.weight)
        return Needs(self.samples, wanted)

    def check(self, score_levels: int) -> None:
        super().check(score_levels)
        if self._diverges and self.needs.references[TEACHER].served:
            raise OptionError(
                "entropy_above and asymmetric read the teacher's whole distribution, which a server"
                " does not send: give a model in this process as teacher_model"
            )

    def rows(self, group: Group, context: Context) -> list[TrainingRow]:
        rows = [
            distilled_row(sample, Distillation.weight, self.first_tokens) for sample in group.played
        ]
        if self._diverges:
            for row in rows:
                row.stream(Divergence.weight)[:] = row.stream(Distillation.weight)
        return rows
