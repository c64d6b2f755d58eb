"""The frames most similar to the question; and the same with a gap between them.

Where we differ from the usual script: scores that are all the same give uniform frames, not the first K.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import fitting, largest, stretched
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray


def top_k(scores: FloatArray, budget: int) -> IntArray:
    """Positions of the K largest scores, of equal ones the earlier, (min(K, F),) in temporal order."""
    relevance = stretched(scores)
    if relevance is None:
        return uniform_u2(len(scores), budget)
    return np.sort(largest(relevance, budget))


def top_k_gap(scores: FloatArray, times: FloatArray, budget: int, gap_s: float) -> IntArray:
    """The largest score first, then always the largest one that lies at least a gap from all before.

    When none is left before the budget is met, the gap is halved and picking goes on: a budget is always met.

    Args:
        scores: of the candidates, (F,).
        times: of the candidates in seconds, (F,).
        budget: K.
        gap_s: in seconds.

    Returns:
        Positions in temporal order, (min(K, F),).
    """
    relevance = stretched(scores)
    if relevance is None:
        return uniform_u2(len(scores), budget)
    left = relevance.copy()
    picks: list[int] = []
    while len(picks) < fitting(budget, len(scores)):
        best = int(left.argmax())
        if left[best] == -np.inf:
            gap_s = gap_s / 2 if gap_s > 1e-3 else 0.0
            left = relevance.copy()
            for pick in picks:
                _close(left, times, pick, gap_s)
            continue
        picks.append(best)
        _close(left, times, best, gap_s)
    return np.sort(np.array(picks, dtype=np.int64))


def _close(left: FloatArray, times: FloatArray, pick: int, gap_s: float) -> None:
    """Take a pick, and what lies less than the gap from it, out of the choice."""
    left[pick] = -np.inf
    if gap_s > 0:
        first = np.searchsorted(times, times[pick] - gap_s, side="right")
        last = np.searchsorted(times, times[pick] + gap_s, side="left")
        left[first:last] = -np.inf


@dataclass(frozen=True, kw_only=True)
class TopK(Scored):
    """The K most similar frames."""

    name: str = "topk"

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return top_k(seen.scores, budget)


@dataclass(frozen=True, kw_only=True)
class TopKGap(Scored):
    """The most similar frames that lie some seconds apart."""

    name: str = "topk-gap"
    gap_s: Annotated[float, Field(ge=0)] = 2.0

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return top_k_gap(seen.scores, seen.times, budget, self.gap_s)
