"""Training rows as verl's batches, and the loss of such a batch."""

# verl needs an environment of its own, so its modules are not there for the type checker.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovd_agent.learner.rows import BEHAVIOUR, NAN_ALLOWED, TrainingRow
from ovd_agent.losses.base import LossComponent, Tokens, row_numbers

STREAMS = "ovd_streams"
"""Where the streams of a row travel: verl makes filler rows of another length, which copy it."""


def readable(losses: Sequence[LossComponent]) -> tuple[LossComponent, ...]:
    """The components that read no more than the tokens' log-probabilities, which is all that verl's
    engines hand over."""
    return tuple(each for each in losses if not (each.reads_distribution or each.candidates))


def stream_names(losses: Sequence[LossComponent]) -> list[str]:
    """Every stream that the components read, weights first."""
    names = [each.weight for each in losses]
    return list(dict.fromkeys([*names, *(name for each in losses for name in each.streams)]))


def row_fields(
    row: TrainingRow, losses: Sequence[LossComponent], *, reward: float, turns: int
) -> dict[str, Any]:
    """A row as the fields that verl's trainer reads of a trajectory. Raises ValueError for a row
    with a stream that none of `losses` reads.

    `response_mask` is 1 where a token is weighted, so that verl's count of tokens in an optimiser
    step is the divisor of ours.
    """
    row.check(losses)
    start = int(np.argmax(~row.wrote("prompt")))
    fields = trajectory_fields(row.ids, start, reward, turns)
    mask = torch.from_numpy(row.weighted(losses)[start:].astype(np.int64))
    behaviour = row.streams.get(BEHAVIOUR, np.zeros(len(row.ids), dtype=np.float32))[start:]
    streams = {
        name: row.streams[name][start:] for name in stream_names(losses) if name in row.streams
    }
    return {
        **fields,
        "response_mask": mask,
        "loss_mask": mask,
        "rollout_log_probs": torch.from_numpy(np.nan_to_num(behaviour).astype(np.float32)),
        "extra_fields": {STREAMS: streams},
    }


def trajectory_fields(ids: Sequence[int], start: int, reward: float, turns: int) -> dict[str, Any]:
    """What verl reads of any trajectory, whose first `start` ids are its prompt; every other token
    counts as the student's."""
    whole = torch.tensor(ids, dtype=torch.int64)
    mask = torch.ones(len(ids) - start, dtype=torch.int64)
    scores = torch.zeros(len(mask))
    scores[-1] = reward
    return {
        "prompts": whole[:start],
        "responses": whole[start:],
        "input_ids": whole,
        "position_ids": torch.arange(len(ids)),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": scores,
        "rollout_log_probs": torch.zeros(len(mask)),
        "num_turns": turns,
        "multi_modal_inputs": {},
        "extra_fields": {},
    }


def padded_streams(
    rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], names: Sequence[str]
) -> dict[str, list[Tensor]]:
    """Each stream of each row, as long as the row's response: where a row has none, or is a filler
    of verl's, it is 0, the behaviour NaN."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for streams, length in zip(rows, lengths, strict=True):
        for name in names:
            stream = streams.get(name)
            if stream is None or len(stream) != length:
                empty = torch.nan if name in NAN_ALLOWED else 0.0
                found[name].append(torch.full((length,), empty, dtype=torch.float32))
            else:
                found[name].append(torch.from_numpy(np.asarray(stream, dtype=np.float32)))
    return found


def rows_loss(
    model_output: Mapping[str, Any],
    data: Any,
    dp_group: Any = None,
    *,
    losses: Sequence[LossComponent],
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of a micro-batch, and metrics: a `loss_fn` of verl's workers.

    `model_output["log_probs"]` [b, j] and the streams in `data` [b, j] are jagged; those of the
    model stand for whole sequences, each at the place of the token before. The gradients of ranks
    are averaged, and ours is a part of one sum over the optimiser step, hence `dp_size`.
    """
    from verl.utils.metric import AggregationType, Metric
    from verl.workers.utils.padding import response_from_nested

    mask = data["response_mask"]
    logprobs = response_from_nested(model_output["log_probs"], mask).values()
    lengths = mask.offsets().diff().tolist()
    trained = mask.values().bool()
    streams = {name: data[name].values()[trained].double() for name in stream_names(losses)}
    for each in losses:
        streams[each.weight] = streams[each.weight] / max(1, data["batch_num_tokens"])
    rows = row_numbers(lengths, logprobs.device)[trained]
    tokens = Tokens(logprobs[trained], streams, rows=rows)
    loss = logprobs.sum() * 0.0  # a filler has no token, and still takes part
    metrics: dict[str, Any] = {}  # of the same names in each micro-batch, as verl joins them
    for each in losses:
        part = logprobs.new_zeros(())
        if bool((streams[each.weight] != 0).any()):
            part = each.loss(tokens)
            loss = loss + part
        metrics[f"{each.name}_loss"] = Metric(AggregationType.SUM, part.detach().item())
        for name, value in each.metrics(replace(tokens, logprobs=tokens.logprobs.detach())).items():
            metrics[name] = Metric(AggregationType.MEAN, value)
    return loss * data["dp_size"], metrics
