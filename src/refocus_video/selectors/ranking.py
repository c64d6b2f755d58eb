"""What the score-based selectors share: scores made safe, the largest of them, and frames shared out among stretches.

Legend: F candidate frames, K picks.
"""

import numpy as np
import numpy.typing as npt

from refocus_video.types import FloatArray, IntArray
from refocus_video.video.sampling import uniform_positions


def fitting(budget: int, num_candidates: int) -> int:
    """min(K, F): what a position function gives when it is asked for more frames than there are."""
    return min(budget, num_candidates)


def cleaned(scores: FloatArray) -> FloatArray:
    """Scores that can be compared: what is not a number counts as the lowest of the others, an infinity as their end, (F,)."""
    scores = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(scores)
    if finite.all():
        return scores
    if not finite.any():
        return np.zeros_like(scores)
    low, high = scores[finite].min(), scores[finite].max()
    return np.nan_to_num(scores, nan=low, neginf=low, posinf=high)


def stretched(scores: FloatArray) -> FloatArray | None:
    """Cleaned scores from 0 to 1, (F,); None where they are all the same and say nothing."""
    scores = cleaned(scores)
    low = scores.min()
    spread = scores.max() - low
    # Below this the differences are rounding errors of the scores themselves.
    if spread <= 1e-12 * max(1.0, float(np.abs(scores).max())):
        return None
    result: FloatArray = (scores - low) / spread
    return result


def comparable(features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32] | None:
    """Features without what is not a number, (F, D); None where all frames are the same."""
    features = np.asarray(features, dtype=np.float32)
    if not np.isfinite(features.sum()):  # a sum is quicker than a look at each
        features = np.nan_to_num(features, nan=0.0, posinf=0.0, neginf=0.0)
    first, last = features[0], features[-1]
    return features if (first != last).any() or (features != first).any() else None


def largest(scores: FloatArray, count: int) -> IntArray:
    """Positions of the ``count`` largest scores, the largest first; of equal ones the earlier first."""
    return np.argsort(-scores, kind="stable")[:count].astype(np.int64)


def gumbel_order(log_weights: FloatArray, rng: np.random.Generator) -> IntArray:
    """A draw of all positions without repetition, each time in proportion to the weights that are left, (F,)."""
    return largest(log_weights + rng.gumbel(size=len(log_weights)), len(log_weights))


def apportioned(weights: FloatArray, total: int, capacity: IntArray) -> IntArray:
    """Share out whole numbers by largest remainder; what does not fit into one part goes to the others.

    Args:
        weights: of each part, not negative, (S,).
        total: what is shared out, at most ``capacity.sum()``.
        capacity: the most that each part takes, (S,).

    Returns: The share of each part, (S,) int64, ``total`` in sum. Of equal remainders the heavier part's comes first,
    then the earlier.
    """
    assert 0 <= total <= capacity.sum(), "more than there is room for"
    shares = np.zeros_like(capacity)
    while (left := total - int(shares.sum())) > 0:
        weight = np.where(shares < capacity, np.maximum(weights, 1e-300), 0.0)
        quota = (weight / weight.sum() * left).round(9)
        given = np.floor(quota).astype(np.int64)
        remainder_first = np.lexsort((-weight, given - quota))
        given[remainder_first[: left - given.sum()]] += 1
        shares += np.minimum(given, capacity - shares)
    return shares


def spread_between(taken: IntArray, count: int, num_candidates: int) -> IntArray:
    """``count`` further positions at equal distances; where one is taken already, the nearest one that is free.

    Returns:
        Positions, (count,), none of them in ``taken``.
    """
    free = np.ones(num_candidates, dtype=bool)
    free[taken] = False
    added: list[int] = []
    for wanted in uniform_positions(num_candidates, count) if count else ():
        places = np.flatnonzero(free)
        place = int(places[np.abs(places - wanted).argmin()])
        free[place] = False
        added.append(place)
    return np.array(added, dtype=np.int64)
