"""AKS: adaptive keyframe sampling by splitting and judging (arXiv 2502.21271, CVPR 2025).

Scores run from 0 to 1 over the video. A stretch with mean m, and mean M of its K best, is a leaf when M − m > t1 and
its standard deviation is above t2, or when it lies D splits deep; else it is split into halves. A leaf d splits deep
gives its best K / 2^d.

Where we differ from the authors' code:
1. The depth is at most log2 K, and shares are whole by largest remainder, the better best score first. Theirs are cut
   to whole numbers, which loses frames: with the preset for Video-MME none are left at K = 4, 8 and 16.
2. What a short leaf cannot give is shared out among the others.
3. Scores that are all the same give uniform frames; theirs divide by zero.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import apportioned, fitting, largest, stretched
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray

Leaf = tuple[int, int, int]
"""Where a stretch begins, where it ends, and how many splits deep it lies."""


def leaves(relevance: FloatArray, budget: int, t1: float, t2: float, depth: int) -> list[Leaf]:
    """The stretches that are not split any more, in temporal order; ``relevance`` runs from 0 to 1, (F,)."""
    depth = min(depth, budget.bit_length() - 1)

    def split(first: int, last: int, deep: int) -> list[Leaf]:
        part = relevance[first:last]
        best = np.partition(part, -budget)[-budget:] if len(part) > budget else part
        enough = best.mean() - part.mean() > t1 and part.std() > t2
        if enough or deep >= depth or len(part) < 2:
            return [(first, last, deep)]
        middle = first + len(part) // 2
        return split(first, middle, deep + 1) + split(middle, last, deep + 1)

    return split(0, len(relevance), 0)


def aks(scores: FloatArray, budget: int, t1: float = 0.8, t2: float = -100.0, depth: int = 5) -> IntArray:
    """The best frames of every leaf, (min(K, F),) in temporal order.

    Args:
        scores: of the candidates, (F,).
        budget: K.
        t1: how far the best must stand out for a stretch to stay whole: 0.8 for Video-MME, 0.2 for LongVideoBench.
        t2: the standard deviation it needs for that.
        depth: D, the most splits: 5 for Video-MME, 3 for LongVideoBench.
    """
    relevance, count = stretched(scores), fitting(budget, len(scores))
    if relevance is None:
        return uniform_u2(len(scores), budget)
    found = leaves(relevance, count, t1, t2, depth)
    sizes = np.array([last - first for first, last, _ in found])
    weights = np.array([2.0**-deep for *_, deep in found])
    best = np.array([relevance[first:last].max() for first, last, _ in found])
    order = np.argsort(-best, kind="stable")  # decides between equal remainders
    shares = np.empty_like(sizes)
    shares[order] = apportioned(weights[order], count, sizes[order])
    picks = [
        first + largest(relevance[first:last], share)
        for (first, last, _), share in zip(found, shares.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(picks))


@dataclass(frozen=True, kw_only=True)
class Aks(Scored):
    """AKS: adaptive sampling by splitting and judging (arXiv 2502.21271)."""

    name: str = "aks"
    t1: float = 0.8
    t2: float = -100.0
    depth: Annotated[int, Field(ge=0, le=20)] = 5

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return aks(seen.scores, budget, self.t1, self.t2, self.depth)
