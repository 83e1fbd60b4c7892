"""One token for each row of logits, with its log-probability, in few passes over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovd_agent.policies.base import Sampling

BLOCK = 256
"""Tokens whose probabilities are added up before one of them is looked for."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How the rows of a batch are sampled, as tensors [n] on the model's device.

    `scaled`, `greedy` and `nucleus` say whether any row needs a temperature other than 0 and 1, the
    most likely token, or a `top_p` below 1: what no row needs is not computed.
    """

    temperature: Tensor
    top_p: Tensor
    scaled: bool
    greedy: bool
    nucleus: bool

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> Draw:
        temperatures = [each.temperature for each in samplings]
        top_ps = [each.top_p for each in samplings]
        return cls(
            torch.tensor(temperatures, dtype=torch.float32, device=device),
            torch.tensor(top_ps, dtype=torch.float32, device=device),
            any(each not in (0, 1) for each in temperatures),
            any(each == 0 for each in temperatures),
            any(each < 1 for each in top_ps),
        )

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """What is computed, apart from the numbers."""
        return self.scaled, self.greedy, self.nucleus


def sample(logits: Tensor, uniform: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Token ids [n] and their log-probabilities [n], from float32 logits [n, V] and one random
    number in [0, 1) for each row. Temperature 0 takes the most likely token, whose log-probability
    is that at temperature 1."""
    if draw.scaled:
        wanted = torch.where(draw.temperature == 0, 1.0, draw.temperature)
        logits = logits / wanted[:, None]
    if draw.nucleus:
        logits = _nucleus(logits, draw.top_p[:, None])
    chosen, total = _drawn(logits, uniform)
    if draw.greedy:
        chosen = torch.where(draw.temperature == 0, logits.argmax(-1), chosen)
    return chosen, logits.gather(1, chosen[:, None])[:, 0] - total


def _drawn(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """A token of each row by inversion, and the logarithm of what its probabilities add up to.

    One random number finds a block of the vocabulary by the blocks' sums, and what is left of it
    the token in this block. A running sum over the whole vocabulary, or random numbers for all of
    it as in `torch.multinomial`, takes a third of a decoding step.
    """
    rows, vocabulary = logits.shape
    highest = logits.amax(-1, keepdim=True)
    shares = (logits - highest).exp_()
    if vocabulary % BLOCK:
        shares = torch.nn.functional.pad(shares, (0, BLOCK - vocabulary % BLOCK))
    blocks = shares.view(rows, -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1)
    target = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp_max(ends.shape[1] - 1)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0]
    places = inside.cumsum(-1)
    before = ends.gather(1, block) - places[:, -1:]
    place = torch.searchsorted(places, target - before, right=True)
    # Rounding may leave the target at the block's end; a token of probability 0 is never taken.
    place = torch.minimum(place, _last(inside))
    chosen = (block * BLOCK + place)[:, 0]
    return chosen, (highest + ends[:, -1:].log())[:, 0]


def _last(shares: Tensor) -> Tensor:
    """The last place of each row [n, m] with a share above 0, [n, 1]."""
    places = torch.arange(shares.shape[1], device=shares.device)
    return torch.where(shares > 0, places, 0).amax(-1, keepdim=True)


def _nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Log-probabilities over the smallest set of tokens whose probability reaches `top_p`."""
    logprobs = logits.log_softmax(-1)
    ordered, places = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(logprobs, dtype=torch.bool).scatter(-1, places, before < top_p)
    return logprobs.masked_fill(~kept, -torch.inf).log_softmax(-1)
