"""Micro-batches: every trained token is predicted once, in the context it has alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovd_agent.learner.batches import SHORTEST_PREFIX, micro_batches
from ovd_agent.learner.logprobs import token_logprobs
from ovd_agent.learner.rows import TrainingRow, divisors
from ovd_agent.losses import loss_components
from tests.agent.tiny import VOCABULARY, tiny_model

LOSSES = loss_components()


def row_of(length: int, seed: int = 0, prefix: int = 0) -> TrainingRow:
    rng = np.random.default_rng([seed, length])
    ids = [n % VOCABULARY for n in range(prefix)] + rng.integers(0, VOCABULARY, length).tolist()
    row = TrainingRow.blank(ids, "demonstration")
    row.stream("ce")[prefix + 1 :] = (rng.random(length - 1) < 0.7) * rng.random(length - 1)
    return row


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 100), st.sampled_from([0, 25]))
def test_every_trained_token_is_predicted_once_within_the_budget(lengths, budget, prefix):
    rows = [row_of(length, seed, prefix) for seed, length in enumerate(lengths)]
    found = []
    for batch in micro_batches(rows, LOSSES, [2.0] * len(rows), budget):
        height, width = batch.input_ids.shape
        start = batch.prefix.tolist()
        assert height == 1 or height * width + len(start) <= budget
        assert not start or (height > 1 and len(start) >= SHORTEST_PREFIX)
        columns = zip(
            batch.positions.tolist(), batch.targets.tolist(), batch.streams["ce"].tolist()
        )
        for position, target, weight in columns:
            place, column = divmod(position, width)
            assert batch.attention_mask[place, column] == 1
            context = start + batch.input_ids[place, : column + 1].tolist()
            found.append((tuple(context), target, round(2 * weight, 6)))
    expected = [
        (tuple(row.ids[:t]), row.ids[t], round(float(row.stream("ce")[t]), 6))
        for row in rows
        for t in np.flatnonzero(row.stream("ce"))
    ]
    assert sorted(found) == sorted(expected)


def test_padding_may_be_any_id_even_that_of_the_end_of_text():
    """Rows in a batch have the log-probabilities that they have alone."""
    model = tiny_model().eval()
    rows = [row_of(length) for length in (5, 9, 14)]
    rows[0].ids[2] = rows[1].ids[-1] = 0
    (batch,) = micro_batches(rows, LOSSES, [1.0] * len(rows), 1000)
    together = token_logprobs(model, batch).logprobs
    alone = [
        token_logprobs(model, one).logprobs
        for row in rows[::-1]
        for one in micro_batches([row], LOSSES, [1.0], 999)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=0)


def test_divisors_count_weighted_tokens_or_rows_and_copies():
    rows = [row_of(10, seed) for seed in range(3)]
    rows[1].copies = 4
    policy = TrainingRow.blank([1, 2, 3], "student")
    policy.stream("pg")[1:] = 1  # its advantage is 0: it has no gradient, and counts all the same
    counts = [int((row.stream("ce") != 0).sum()) for row in rows]
    tokens = counts[0] + 4 * counts[1] + counts[2] + 2
    assert divisors([*rows, policy], LOSSES, "tokens") == [tokens] * 4
    idle = TrainingRow.blank([1, 2], "student")
    assert divisors([*rows, policy, idle], LOSSES, "rows") == [7] * 5
    means = divisors([*rows, policy, idle], LOSSES, "row_means")
    assert means == [*(7 * count for count in counts), 14, 7]
    assert divisors([], LOSSES, "tokens") == []
