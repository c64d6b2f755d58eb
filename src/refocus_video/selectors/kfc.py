"""KFC, the keyframes of Nar-KFC: relevant frames, each pair of them unlike (arXiv 2505.24158, ICLR 2026).

    maximise  Σ_{i<j∈S} [ (s_i + s_j)/2 + exp(−γ·cos(f_i, f_j)) ],  γ = 1

Greedy: the most relevant frame of an even pool first, then always the frame with the largest sum over those chosen;
last, each frame may move by up to 2 candidates where that enlarges the sum.

Where we differ from the authors' code:
1. A pair counts the relevance of both its frames; theirs takes that of the earlier one, so that the last frame's counts
   for nothing.
2. The matrix of pairs is not smoothed by dropping singular values.
3. The pool is 128 even candidates, or twice the budget; theirs is 128 for long videos and a quarter of the others.

Legend: F candidates, D width, N of the pool, K picks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import cleaned, comparable, fitting, stretched
from refocus_video.selectors.scored import Features, Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray


def unlike(some: Features, others: Features, gamma: float) -> FloatArray:
    """exp(−γ·cos) of every two frames: (M, D), (N, D) -> (M, N)."""
    result: FloatArray = np.exp(-gamma * (some @ others.T).astype(np.float64))
    return result


def kfc(
    scores: FloatArray, features: Features, budget: int, gamma: float = 1.0, pool: int = 128, window: int = 2
) -> IntArray:
    """Frames with the largest sum over their pairs, (min(K, F),) in temporal order.

    Args:
        scores: cosines of the candidates with the question, (F,).
        features: of the candidates, length 1, (F, D).
        budget: K.
        gamma: how fast likeness is punished.
        pool: candidates among which greed chooses, at least 2·K.
        window: candidates by which each frame may move afterwards.
    """
    comparing = comparable(features)
    if comparing is None:
        if stretched(scores) is None:
            return uniform_u2(len(scores), budget)
        comparing = np.zeros((len(scores), 1), dtype=np.float32)
    relevance, count = cleaned(scores), fitting(budget, len(scores))
    places = uniform_u2(len(scores), max(pool, 2 * count))
    picks = _greedy(relevance[places], unlike(comparing[places], comparing[places], gamma), count)
    return np.sort(_moved(places[picks], relevance, comparing, gamma, window))


def _greedy(relevance: FloatArray, pairs: FloatArray, count: int) -> IntArray:
    picks = np.empty(count, dtype=np.int64)
    total, free = np.zeros(len(relevance)), np.ones(len(relevance), dtype=bool)
    for step in range(count):
        gain = relevance if step == 0 else total + step * relevance / 2
        picks[step] = np.where(free, gain, -np.inf).argmax()
        free[picks[step]] = False
        total = total + pairs[picks[step]]
    return picks


def _moved(picks: IntArray, relevance: FloatArray, features: Features, gamma: float, window: int) -> IntArray:
    picks = picks.copy()
    for step in range(len(picks)):
        others = np.delete(picks, step)
        near = np.arange(max(0, picks[step] - window), min(len(relevance), picks[step] + window + 1))
        near = near[~np.isin(near, others)]
        sums = len(others) * relevance[near] / 2 + unlike(features[near], features[others], gamma).sum(1)
        best = sums.argmax()
        if sums[best] > sums[near == picks[step]][0]:
            picks[step] = near[best]
    return picks


@dataclass(frozen=True, kw_only=True)
class Kfc(Scored):
    """KFC of Nar-KFC: relevant frames, each pair unlike (arXiv 2505.24158)."""

    name: str = "kfc"
    gamma: Annotated[float, Field(gt=0)] = 1.0
    pool: Annotated[int, Field(ge=1)] = 128
    window: Annotated[int, Field(ge=0)] = 2

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return kfc(seen.scores, seen.features, budget, self.gamma, self.pool, self.window)
