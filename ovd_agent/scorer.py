"""A judge of one's own: a model trained on scored steps, asked by the prompts of `LLMTeacher`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ovd_agent.learner.rows import TrainingRow
from ovd_agent.losses.cross_entropy import CrossEntropy
from ovd_agent.rollouts.encoding import encode_chat
from ovd_envs.calibration.calibrate import Step
from ovd_envs.episode import VerbalScore
from ovd_envs.errors import OptionError
from ovd_envs.teachers.base import ScoreRequest
from ovd_envs.teachers.llm.prompts import VERSION, score_messages


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, request: ScoreRequest, *, shows_answer: bool
) -> list[int]:
    """The prompt that asks for a step's grade, as a server would tokenise it. Raises OptionError
    if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise OptionError("a judge needs a chat template: expected an instruction-tuned model")
    messages = score_messages(request, shows_answer=shows_answer)
    return encode_chat(tokenizer, messages)


def digit_ids(tokenizer: PreTrainedTokenizerBase, levels: int) -> list[int]:
    """The token of each level. Raises OptionError if one is not a single token."""
    found = [tokenizer.encode(str(level), add_special_tokens=False) for level in range(levels)]
    if any(len(ids) != 1 for ids in found):
        raise OptionError("this tokenizer writes a digit in several tokens: expected one each")
    return [ids[0] for ids in found]


def scoring_rows(
    tokenizer: PreTrainedTokenizerBase, steps: Sequence[Step], *, shows_answer: bool
) -> list[TrainingRow]:
    """A row for each step: cross-entropy on the digit that the oracle gave."""
    digits = digit_ids(tokenizer, max(step.request.levels for step in steps))
    rows: list[TrainingRow] = []
    for step in steps:
        ids = prompt_ids(tokenizer, step.request, shows_answer=shows_answer)
        row = TrainingRow.blank([*ids, digits[step.reference]], "demonstration")
        row.stream(CrossEntropy.weight)[-1] = 1.0
        row.group = step.request.episode.task.id
        rows.append(row)
    return rows


class ModelScorer:
    """A `Judge` by a model in this process.

    A score is the likeliest digit; `expected` is the mean over the digits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        shows_answer: bool = True,
        batch_size: int = 8,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.shows_answer, self.batch_size = shows_answer, batch_size

    def score(self, requests: Sequence[ScoreRequest]) -> list[VerbalScore]:
        prompts = [
            prompt_ids(self.tokenizer, request, shows_answer=self.shows_answer)
            for request in requests
        ]
        scores: dict[int, VerbalScore] = {}
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            logits = self._last_logits([prompts[place] for place in places])
            for place, row in zip(places, logits, strict=True):
                digits = digit_ids(self.tokenizer, requests[place].levels)
                probabilities = row[digits].softmax(-1)
                level = int(probabilities.argmax())
                expected = float((probabilities * torch.arange(len(digits))).sum())
                scores[place] = VerbalScore(level, expected, "", f"model, prompt {VERSION}")
        return [scores[place] for place in range(len(prompts))]

    @torch.inference_mode()
    def _last_logits(self, prompts: Sequence[list[int]]) -> Tensor:
        """[prompts, vocabulary], after each prompt's last token."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, prompt in enumerate(prompts):  # padded on the right, where nobody looks
            ids[place, : len(prompt)] = torch.tensor(prompt)
            mask[place, : len(prompt)] = 1
        trunk, head = self.model.base_model, self.model.get_output_embeddings()
        device = self.model.device
        hidden = trunk(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        assert head is not None
        return head(hidden[torch.arange(len(prompts), device=device), last]).float().cpu()
