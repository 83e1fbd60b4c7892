"""Log-probabilities of chosen tokens, without logits for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from ovd_agent.learner.batches import MicroBatch
from ovd_agent.policies.cache import cache_argument

LOGIT_BUDGET = 2**26
"""Logits held at a time, by default: 256 MiB in float32."""
CACHED = 2**19
"""Logits in a pass on a processor: 2 MiB in float32."""
BUFFERS = 8
"""As large as the logits, that a pass over whole distributions holds: both distributions, what a
divergence makes of them, and their gradients."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pass over the output head found for the trained tokens.

    `logprobs` [n] are of the targets, `candidates` [n, K] of other ids, `entropies` [n] without
    gradient. Of what `of_distribution` returned, `extra` [c] is the sum of the numbers, and
    `compared` [n, f] the figures of each token; without it there are none.
    """

    logprobs: Tensor
    candidates: Tensor
    entropies: Tensor
    extra: Tensor
    compared: Tensor


OfDistribution = Callable[[Tensor, Tensor, Tensor, slice], tuple[Tensor, Tensor]]
"""From log-probabilities [m] of targets, [m, K] of candidates and [m, V] of the vocabulary, and the
place of these m tokens in the batch, to numbers [c], and figures [m, f] without a gradient."""


def token_logprobs(
    model: PreTrainedModel,
    batch: MicroBatch,
    temperature: float = 1.0,
    logit_budget: int = LOGIT_BUDGET,
    candidates: Tensor | None = None,
    of_distribution: OfDistribution | None = None,
) -> Measured:
    """Log-probabilities of the targets, of `candidates` [n, K], and of the whole vocabulary.

    The head runs on the trained positions only. When n * vocabulary exceeds `logit_budget` it runs
    in chunks, computed again in the backward pass; so it does wherever `of_distribution` reads
    whole distributions, of which none is kept, in chunks that are smaller by `BUFFERS`.
    Log-probabilities are at least float32 and those of sampling at `temperature`.
    """
    hidden = hidden_states(model, batch).flatten(0, 1)[batch.positions]
    head = _head(model)
    ids = batch.targets[:, None]
    if candidates is not None:
        ids = torch.cat([ids, candidates], dim=1)
    held = 1 if of_distribution is None else BUFFERS
    size = max(1, logit_budget // (held * vocabulary_size(model)))
    if len(ids) <= size and of_distribution is None:
        return _measured(*_from_hidden(hidden, ids, head, temperature))

    def chunk(states: Tensor, ids: Tensor, start: int) -> tuple[Tensor, ...]:
        logits = head(states)
        chosen, entropies = _of_logits(logits, ids, temperature)
        if of_distribution is None:
            return chosen, entropies
        wide = torch.promote_types(logits.dtype, torch.float32)
        whole = (logits.to(wide) / temperature).log_softmax(-1)
        place = slice(start, start + len(ids))
        return chosen, entropies, *of_distribution(chosen[:, 0], chosen[:, 1:], whole, place)

    parts = [
        cast(tuple[Tensor, ...], checkpoint(chunk, states, some, start, use_reentrant=False))
        for states, some, start in zip(
            hidden.split(size), ids.split(size), range(0, len(ids), size), strict=True
        )
    ]
    chosen, entropies, *extra = zip(*parts, strict=True)
    if not extra:
        return _measured(torch.cat(chosen), torch.cat(entropies))
    numbers, figures = extra
    return _measured(
        torch.cat(chosen), torch.cat(entropies), torch.stack(numbers).sum(0), torch.cat(figures)
    )


def hidden_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """The last hidden states [b, longest, d] of `input_ids`.

    A shared prefix is read once. Its keys and values are expanded to all rows, and autograd adds
    the rows' gradients up, so that the result is that of reading it with every row.
    """
    decoder = cast(nn.Module, model.get_decoder())
    rows, longest = batch.input_ids.shape
    shared = len(batch.prefix)
    if not shared:
        output = decoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        )
        return output.last_hidden_state
    read: Any = DynamicCache()
    decoder(input_ids=batch.prefix[None], use_cache=True, **{cache_argument(model): read})
    expanded: Any = DynamicCache()
    for index, layer in enumerate(read.layers):
        expanded.update(
            layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index
        )
    ones = batch.attention_mask.new_ones(rows, shared)
    places = torch.arange(shared, shared + longest, device=batch.input_ids.device)
    output = decoder(
        input_ids=batch.input_ids,
        attention_mask=torch.cat([ones, batch.attention_mask], dim=1),
        position_ids=places.expand(rows, -1),
        use_cache=True,
        **{cache_argument(model): expanded},
    )
    return output.last_hidden_state


@torch.no_grad()
def frozen_distribution(
    model: PreTrainedModel, hidden: Tensor, temperature: float, size: int
) -> Tensor:
    """Log-probabilities [m, V] of a frozen model's hidden states, over the first `size` ids at
    most."""
    logits: Tensor = _head(model)(hidden)[:, :size]
    wide = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(wide) / temperature).log_softmax(-1)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise ValueError unless the model's logits are its output head over its hidden states.

    Some architectures scale or cap their logits after the head; training them here would
    silently use other probabilities than sampling does.
    """
    ids = torch.tensor([[0, 1, 2]], device=model.device) % vocabulary_size(model)
    expected: Tensor = model(input_ids=ids, use_cache=False).logits
    decoder = cast(nn.Module, model.get_decoder())
    hidden: Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
    logits: Tensor = _head(model)(hidden)
    if expected.shape != logits.shape or not torch.allclose(expected, logits, 1e-3, 1e-3):
        raise ValueError(
            f"{type(model).__name__} changes its logits after the output head, which the learner "
            "does not support: choose a model whose logits are a linear map of its hidden states"
        )


def _measured(
    chosen: Tensor,
    entropies: Tensor,
    extra: Tensor | None = None,
    compared: Tensor | None = None,
) -> Measured:
    return Measured(
        chosen[:, 0],
        chosen[:, 1:],
        entropies,
        chosen.new_zeros(0) if extra is None else extra,
        chosen.new_zeros(0, 0) if compared is None else compared,
    )


def _from_hidden(
    hidden: Tensor, ids: Tensor, head: nn.Module, temperature: float
) -> tuple[Tensor, Tensor]:
    return _of_logits(head(hidden), ids, temperature)


def _of_logits(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return cast(tuple[Tensor, Tensor], _OfLogits.apply(logits, ids, temperature))


class _OfLogits(torch.autograd.Function):
    """Log-probabilities [n, k] of ids [n, k] and entropies [n], from logits [n, vocabulary].

    The passes over the logits take a few rows at a time, which stay in the processor's cache, and
    nothing as large as the logits is kept but these themselves and their gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        sums, entropies = (logits.new_empty(len(logits), dtype=wide) for _ in range(2))
        chosen = logits.gather(-1, ids).to(wide) / temperature
        for block in _blocks(logits):
            scaled = logits[block].to(wide) / temperature
            sums[block] = scaled.logsumexp(-1)
            shares = (scaled - sums[block, None]).exp_()
            entropies[block] = sums[block] - shares.mul_(scaled).sum(-1)
        ctx.save_for_backward(logits, ids, sums)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropies)
        return chosen - sums[:, None], entropies

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        grad = grad_outputs[0]
        logits, ids, sums = ctx.saved_tensors
        result = torch.empty_like(logits)
        for block in _blocks(logits):
            slope = grad[block] / ctx.temperature
            scaled = logits[block].to(sums.dtype) / ctx.temperature
            shares = scaled.sub_(sums[block, None]).exp_().mul_(-slope.sum(-1, keepdim=True))
            result[block] = shares.scatter_add_(-1, ids[block], slope)
        return result, None, None


def _blocks(logits: Tensor) -> list[slice]:
    """Rows to take at a time: on a processor what fits its cache, elsewhere all."""
    count, vocabulary = logits.shape
    size = count if logits.is_cuda else max(1, CACHED // vocabulary)
    return [slice(start, start + size) for start in range(0, count, max(1, size))]


def _head(model: PreTrainedModel) -> nn.Module:
    head = cast(nn.Module | None, model.get_output_embeddings())
    if head is None:
        raise ValueError(
            f"{type(model).__name__} has no output head: load it with AutoModelForCausalLM"
        )
    return head


def vocabulary_size(model: PreTrainedModel) -> int:
    """How many ids the model can read, padding rows of its embedding included."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]
