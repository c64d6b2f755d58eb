"""Where selectors look: how much of their choices they share, and over which parts of the videos the picks spread. Pure NumPy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from refocus_video.types import FloatArray

BINS = 20
"""Parts of equal length into which a video is cut."""


def jaccard(some: Sequence[int], others: Sequence[int]) -> float:
    """Share of the frames of two choices that both hold; 1 for the same frames, 0 for none in common or none at all."""
    mine, theirs = set(some), set(others)
    return len(mine & theirs) / max(1, len(mine | theirs))


def overlap(chosen: Sequence[Mapping[Any, Sequence[int]]]) -> list[list[float | None]]:
    """Mean Jaccard index of every two selectors over the questions that both chose frames for.

    Args:
        chosen: of each of S selectors the frame indices, by question.

    Returns:
        An (S, S) table; None where two have no question in common.
    """
    table: list[list[float | None]] = [[None] * len(chosen) for _ in chosen]
    for i, mine in enumerate(chosen):
        for j, theirs in enumerate(chosen[: i + 1]):
            shared = [jaccard(frames, theirs[key]) for key, frames in mine.items() if key in theirs]
            table[i][j] = table[j][i] = float(np.mean(shared)) if shared else None
    return table


def relative(positions: Sequence[int], candidates: int) -> list[float]:
    """Where in its video each pick lies, in (0, 1): the middle of its share of the pool."""
    return [(position + 0.5) / candidates for position in positions]


def spread(times: npt.ArrayLike, bins: int = BINS) -> FloatArray:
    """Share of the picks that lie in each part of their video, (bins,); zeros if there are none.

    Args:
        times: relative to their video's length, in [0, 1], (N,).
        bins: number of parts.
    """
    counts = np.histogram(np.asarray(times, dtype=np.float64), bins=bins, range=(0.0, 1.0))[0].astype(np.float64)
    return np.asarray(counts / max(1.0, counts.sum()), dtype=np.float64)


def divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen–Shannon divergence of two distributions in bits: 0 for the same, 1 for two that nowhere overlap (Lin, 1991)."""
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2
    return max(0.0, (_information(first, middle) + _information(second, middle)) / 2)


def _information(p: FloatArray, q: FloatArray) -> float:
    """Kullback–Leibler divergence in bits; q is nowhere 0 where p is not."""
    held = p > 0
    return float((p[held] * np.log2(p[held] / q[held])).sum())
