"""What the algorithms share whose teacher has token probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from ovd_envs.errors import OptionError


@dataclass(frozen=True)
class OfTokens:
    """An algorithm with a teacher of tokens."""

    teacher_model: str = ""
    """The model that teaches, as `--student` takes it, with the student's tokenizer; or one that
    vLLM serves, MODEL@http://HOST:PORT, where no whole distribution is read."""
    samples: int = 2
    """Student trajectories per task."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples={self.samples}: expected at least 1")

    def check(self, score_levels: int) -> None:
        """Raise OptionError where no teacher of tokens is named."""
        if not self.teacher_model:
            raise OptionError(
                "algorithm.teacher_model is not given: name the model whose token probabilities"
                " teach, as --student takes it (a checkpoint's or run's folder, or an id on the"
                " Hub)"
            )
