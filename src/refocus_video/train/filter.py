"""The reward-variance filter (METHOD §6): keep the questions for which it matters which frames are shown. Pure.

Sixteen probe subsets: K frames from each of 8 overlapping cyclic windows (two of eight equal segments) and from each window's
complement. A question is kept if the variance of the margins exceeds τ (paper: 0.21 in v1, 0.2 in v2).

Dimensions: F candidate frames · K frames in a probe.
"""

import numpy as np
import torch
from torch import Tensor

from refocus_video.errors import BudgetError
from refocus_video.types import BoolArray, FloatArray, IntArray

SEGMENTS = 8


def segment_of(num_candidates: int) -> IntArray:
    """The segment 0..7 of every candidate, (F,)."""
    return np.arange(num_candidates) * SEGMENTS // num_candidates


def probe_pools(num_candidates: int) -> list[IntArray]:
    """Candidate positions of the windows W_1..W_8, then of their complements C_1..C_8. W_8 joins the end and the start."""
    segments = segment_of(num_candidates)
    inside = [np.isin(segments, (i, (i + 1) % SEGMENTS)) for i in range(SEGMENTS)]
    return [np.flatnonzero(w) for w in inside] + [np.flatnonzero(~w) for w in inside]


def smallest_pool(num_candidates: int) -> int:
    """The largest budget that every probe can hold."""
    return min(map(len, probe_pools(num_candidates)))


def probe_subsets(num_candidates: int, budget: int, rng: np.random.Generator) -> IntArray:
    """Draw the 16 probes, (16, K), each in temporal order.

    Raises:
        BudgetError: if a window holds fewer than K candidates.
    """
    pools, smallest = probe_pools(num_candidates), smallest_pool(num_candidates)
    if not 1 <= budget <= smallest:
        raise BudgetError(
            f"asked for probes of {budget} frames, but the smallest window of {num_candidates} candidates holds {smallest}; "
            f"choose a budget from 1 to {smallest}"
        )
    return np.stack([np.sort(rng.choice(pool, budget, replace=False)) for pool in pools])


def margin_variance(margins: Tensor) -> float:
    """Variance of the probes' margins, (16,) -> a number (divided by 16, in float32)."""
    return float(torch.as_tensor(margins, dtype=torch.float32).var(correction=0))


def choose(variances: FloatArray, threshold: float, keep: int | None = None) -> BoolArray:
    """Which of N questions to keep: those above τ, or the ``keep`` with the largest variances. (N,) -> (N,).

    Among equal variances the earlier question wins. NaN stands for a question that was not measured, and is never kept.
    """
    if keep is None:
        return np.greater(variances, threshold)
    order = np.argsort(-variances, kind="stable")  # NaN goes last
    chosen = np.zeros(len(variances), dtype=np.bool_)
    chosen[order[:keep]] = True
    return chosen & ~np.isnan(variances)
