"""Maximal marginal relevance: each time the frame that is most relevant and least like those that were picked.

    next = argmax_i  λ·s_i − (1 − λ)·max_{j∈S} cos(f_i, f_j)

λ = ½ as in WFS-SB. Two things are ours: s runs from 0 to 1 over the video, since cosines of a text lie far below those
among pictures; and the first frame is the most relevant one.

The likeness to what was picked can only grow, so what a frame was worth earlier is the most that it can be worth now:
only the frames that were worth enough are looked at again, and the result is the same.

Legend: F candidates, D width, K picks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import comparable, fitting, stretched
from refocus_video.selectors.scored import Features, Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray

BATCH = 256
"""Frames that are looked at again at a time."""


def mmr(scores: FloatArray, features: Features, budget: int, relevance_weight: float = 0.5) -> IntArray:
    """Relevant frames unlike each other, (min(K, F),) in temporal order.

    Args:
        scores: of the candidates, (F,).
        features: of the candidates, length 1, (F, D).
        budget: K.
        relevance_weight: λ, from 0 to 1.
    """
    relevance, comparing = stretched(scores), comparable(features)
    if comparing is None:
        comparing = np.zeros((len(scores), 1), dtype=np.float32)
        if relevance is None:
            return uniform_u2(len(scores), budget)
    wanted = relevance_weight * (np.zeros(len(scores)) if relevance is None else relevance)
    picks = [int(wanted.argmax())]
    likeness = (comparing @ comparing[picks[0]]).astype(np.float64)  # to the picks that a frame was compared with
    compared = np.ones(len(scores), dtype=np.int64)  # how many those are
    worth = wanted - (1 - relevance_weight) * likeness
    worth[picks[0]] = -np.inf
    while len(picks) < fitting(budget, len(scores)):
        chosen = comparing[picks]
        while compared[best := int(worth.argmax())] < len(picks):
            stale = np.flatnonzero(np.isfinite(worth) & (worth >= _nth_largest(worth)) & (compared < len(picks)))
            for since in np.unique(compared[stale]):
                group = stale[compared[stale] == since]
                new = (comparing[group] @ chosen[since:].T).max(1)
                likeness[group] = np.maximum(likeness[group], new)
            compared[stale] = len(picks)
            worth[stale] = wanted[stale] - (1 - relevance_weight) * likeness[stale]
        picks.append(best)
        worth[best] = -np.inf
    return np.sort(np.array(picks, dtype=np.int64))


def _nth_largest(values: FloatArray) -> float:
    return float(np.partition(values, -BATCH)[-BATCH]) if len(values) > BATCH else -np.inf


@dataclass(frozen=True, kw_only=True)
class Mmr(Scored):
    """Maximal marginal relevance."""

    name: str = "mmr"
    relevance_weight: Annotated[float, Field(ge=0, le=1)] = 0.5

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return mmr(seen.scores, seen.features, budget, self.relevance_weight)
