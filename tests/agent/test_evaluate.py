"""Figures of an evaluation, against independent computations."""

import numpy as np
import pytest

from ovd_agent.runs.evaluate import bootstrap, summarise, wilson
from ovd_envs.episode import Episode, Task


def test_wilson_against_published_values():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(300, 0.4, size=2000)
    covered = [low <= 0.4 <= high for low, high in (wilson(n, 300) for n in drawn)]
    assert 0.93 < np.mean(covered) < 0.97


def test_bootstrap_of_a_constant_and_of_a_coin():
    assert bootstrap([0.5] * 50) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 200)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.01)


def test_summary_per_hop():
    def episode(hops, match, ending):
        task = Task("t", "?", ("a",), hops)
        return Episode(task, "?", terminated=True, end_reason=ending, exact_match=match, f1=match)

    endings = (1, 1.0, "answered"), (1, 0.0, "answered"), (2, None, "invalid_limit")
    result = summarise([episode(*ending) for ending in endings])
    assert result["count"] == 3
    assert result["em"] == pytest.approx(1 / 3)
    assert result["answered"] == pytest.approx(2 / 3)  # the third ended without an answer
    assert {hop: row["em"] for hop, row in result["per_hop"].items()} == {"1": 0.5, "2": 0.0}
