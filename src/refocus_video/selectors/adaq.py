"""AdaQ: sampling with a temperature that follows the spread of the relevance (arXiv 2606.24187).

    s̃ = (s − min) / (max − min);  τ = γ · Var(s̃);  p = softmax(s / τ), of the scores as they are

The smallest set of the most probable frames that holds 0.997 of p is kept, and K of them are drawn without repetition in
proportion to p. When the set is smaller than K, all of it is taken and then the next most probable frames.

Where we differ: scores that are all the same, which would divide by zero, give uniform frames.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import cleaned, fitting, gumbel_order, largest, stretched
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray


def log_softmax(logits: FloatArray) -> FloatArray:
    """Logarithms of probabilities, (F,)."""
    shifted = logits - logits.max()
    result: FloatArray = shifted - np.log(np.exp(shifted).sum())
    return result


def likely(log_p: FloatArray, mass: float) -> int:
    """How many of the largest probabilities together reach ``mass``, from 1 up; ``log_p`` is sorted, the largest first."""
    return min(len(log_p), int(np.searchsorted(np.cumsum(np.exp(log_p)), mass)) + 1)


def adaq(
    scores: FloatArray, budget: int, rng: np.random.Generator, gamma: float = 0.5, mass: float = 0.997
) -> IntArray:
    """A draw from the frames that hold most of the probability, (min(K, F),) in temporal order.

    Args:
        scores: of the candidates, (F,).
        budget: K.
        rng: for the draw.
        gamma: temperature for each unit of variance: 0.5; 1.5 for LongCLIP on Video-MME.
        mass: the probability that the kept frames hold together.
    """
    relevance, count = stretched(scores), fitting(budget, len(scores))
    if relevance is None:
        return uniform_u2(len(scores), budget)
    log_p = log_softmax(cleaned(scores) / (gamma * relevance.var()))
    ranked = largest(log_p, len(log_p))
    kept = max(count, likely(log_p[ranked], mass))
    drawn = gumbel_order(log_p[ranked[:kept]], rng)[:count]
    return np.sort(ranked[drawn])


@dataclass(frozen=True, kw_only=True)
class AdaQ(Scored):
    """AdaQ: a draw whose temperature follows the relevance (arXiv 2606.24187)."""

    name: str = "adaq"
    gamma: Annotated[float, Field(gt=0)] = 0.5
    mass: Annotated[float, Field(gt=0, le=1)] = 0.997

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Drawn with the selector's seed."""
        return adaq(seen.scores, budget, rng, self.gamma, self.mass)
