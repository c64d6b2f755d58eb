"""SLICE: the best frame of each of K stretches that hold equal shares of the relevance (IEEE Access, 2026).

The relevance is smoothed over time by a Gaussian of ln F frames, its mean is added to every frame as a floor, and the
sum is cut into K equal parts; each gives its frame with the highest score before smoothing. There is nothing to set.

Our source describes the method in one sentence. Where it leaves a choice:
1. The relevance is put between 0 and 1 before smoothing, so that it can be shared out.
2. The Gaussian is cut at 4 standard deviations; beyond an end the video is mirrored.
3. Frame i belongs to part j when its cumulated share lies in (j/K, (j + 1)/K]. A part that would be empty takes the
   next frame.
"""

from dataclasses import dataclass

import numpy as np

from refocus_video.selectors.ranking import fitting, stretched
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray


def smoothed(values: FloatArray, sigma: float) -> FloatArray:
    """A Gaussian mean over neighbours, mirrored at the ends, (F,)."""
    reach = int(4 * sigma + 0.5)
    if reach == 0:
        return values
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(values, reach, mode="symmetric")
    result: FloatArray = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return result


def slice_mass(scores: FloatArray, budget: int) -> IntArray:
    """The best frame of each share, (min(K, F),) in temporal order."""
    relevance, count, total = stretched(scores), fitting(budget, len(scores)), len(scores)
    if relevance is None:
        return uniform_u2(total, budget)
    energy = smoothed(relevance, float(np.log(total)))
    cumulated = np.cumsum(energy + energy.mean())
    # Rounded, so that a share that is reached exactly is not missed by the last digit of a sum.
    ends = np.searchsorted((cumulated / cumulated[-1]).round(12), (np.arange(1, count) / count).round(12), side="right")
    parts = np.arange(1, count)
    starts = np.maximum.accumulate(np.maximum(ends, parts) - parts) + parts
    starts = np.concatenate([[0], np.minimum(starts, total - count + parts), [total]])
    return np.array(
        [
            first + relevance[first:last].argmax()
            for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ],
        dtype=np.int64,
    )


@dataclass(frozen=True, kw_only=True)
class Slice(Scored):
    """SLICE: the best frame of each equal share of the relevance."""

    name: str = "slice"

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return slice_mass(seen.scores, budget)
