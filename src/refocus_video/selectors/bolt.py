"""BOLT: inverse-transform sampling from the relevance (arXiv 2503.21483, CVPR 2025).

    s' = (s − min) / (max − min);  p = s'^α / Σ s'^α;  C = cumsum(p);  index_j = first i with C_i ≥ u_j

Where we differ from the authors' code:
1. u_j = (j + ½) / K. Theirs runs evenly from 1/K to 1 − 1/K (``grid="published"``), which for two frames gives the same
   place twice and for one the very end.
2. Places that repeat are given once, and the budget is filled with the next largest p.
3. Scores that are all the same give uniform frames; theirs divide zero by zero and give the first frame K times.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import fitting, largest, stretched
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray

Grid = Literal["midpoints", "published"]


def bolt(scores: FloatArray, budget: int, alpha: float = 3.0, grid: Grid = "midpoints") -> IntArray:
    """Positions at equal steps of the cumulated relevance, (min(K, F),) in temporal order.

    Args:
        scores: of the candidates, (F,).
        budget: K.
        alpha: the sharpness: 3 for Video-MME and MLVU, 2.5 for LongVideoBench.
        grid: which steps.
    """
    relevance, count = stretched(scores), fitting(budget, len(scores))
    if relevance is None:
        return uniform_u2(len(scores), budget)
    weights = relevance**alpha
    weights /= weights.sum()
    steps = (np.arange(count) + 0.5) / count if grid == "midpoints" else np.linspace(1 / count, 1 - 1 / count, count)
    found = np.searchsorted(np.cumsum(weights), steps).clip(max=len(scores) - 1)
    found = np.unique(found).astype(np.int64)
    weights[found] = -1.0
    return np.sort(np.concatenate([found, largest(weights, count - len(found))]))


@dataclass(frozen=True, kw_only=True)
class Bolt(Scored):
    """BOLT: inverse-transform sampling from the relevance (arXiv 2503.21483)."""

    name: str = "bolt"
    alpha: Annotated[float, Field(gt=0)] = 3.0
    grid: Grid = "midpoints"

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return bolt(seen.scores, budget, self.alpha, self.grid)
