"""Rankings of several engines to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RRF_K = 60
"""The constant of the paper, and the default of pyserini, FlashRAG and most engines."""
DEPTH = 100
"""Passages that each engine contributes."""


def reciprocal_rank_fusion(
    rankings: Sequence[NDArray[np.int64]], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` rows with the largest sum of 1 / (60 + rank) over the rankings, and these sums.

    Ranks count from 1; ties go to the earlier row (Cormack, Clarke and Büttcher, SIGIR 2009).
    """
    every = np.concatenate(rankings)
    shares = np.concatenate([1 / (RRF_K + 1 + np.arange(len(ranking))) for ranking in rankings])
    rows, places = np.unique(every, return_inverse=True)
    scores = np.bincount(places, weights=shares, minlength=len(rows))
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order].astype(np.float32)
