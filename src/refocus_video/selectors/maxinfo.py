"""MaxInfo: the frames whose features span the largest volume; the question plays no part (arXiv 2502.03183, WACV 2026).

The features' first 8 left singular vectors A (F, 8) are taken. A square of rows is found whose volume no exchange of
one row enlarges by more than 5 %; then rows are added, each time the one with the largest ‖A_i A_S⁺‖, which enlarges
the volume of the rectangle most.

Where we differ from the authors' notebooks:
1. The budget says how many rows; there, rows are added down to a tolerance.
2. Fewer directions than 8 are used when the budget is smaller or the frames have fewer.
3. More than ``pool`` candidates are thinned out evenly, as their "fast" version does; it is not said to how many.

Legend: F candidates, D width, R directions, K picks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import comparable, fitting
from refocus_video.selectors.scored import Features, Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray

MOST_SWAPS = 100


def directions(features: Features, most: int) -> FloatArray:
    """Left singular vectors of the largest singular values that are not zero: (F, D) -> (F, R), R ≤ ``most``."""
    values = features.astype(np.float64)
    wide = values.shape[1] > values.shape[0]
    squares, vectors = np.linalg.eigh(values @ values.T if wide else values.T @ values)
    kept = np.flatnonzero(squares > 1e-10 * squares[-1])[::-1][:most]
    left: FloatArray = vectors[:, kept] if wide else values @ vectors[:, kept] / np.sqrt(squares[kept])
    return left


def square_maxvol(rows: FloatArray, tolerance: float = 1.05) -> IntArray:
    """R rows of (F, R) whose determinant no single exchange enlarges by more than a factor: (R,), not in order."""
    left, picks = rows.copy(), np.empty(rows.shape[1], dtype=np.int64)
    for step in range(len(picks)):  # a start: each time the row that reaches farthest out of the others' span
        lengths = (left**2).sum(1)
        lengths[picks[:step]] = -1.0
        picks[step] = lengths.argmax()
        axis = left[picks[step]] / np.sqrt(lengths[picks[step]])
        left -= np.outer(left @ axis, axis)
    for _ in range(MOST_SWAPS):
        ratios = np.abs(rows @ np.linalg.inv(rows[picks]))  # by how much each exchange changes the volume, (F, R)
        row, place = np.unravel_index(ratios.argmax(), ratios.shape)
        if ratios[row, place] <= tolerance:
            break
        picks[place] = row
    return picks


def max_volume(features: Features, budget: int, rank: int = 8, pool: int = 256) -> IntArray:
    """The frames that span the most, (min(K, F),) in temporal order.

    Args:
        features: of the candidates, (F, D).
        budget: K.
        rank: directions to span.
        pool: the most candidates that are looked at.
    """
    comparing = comparable(features)
    if comparing is None:
        return uniform_u2(len(features), budget)
    count = fitting(budget, len(features))
    places = uniform_u2(len(features), max(pool, count))
    rows = directions(comparing[places], min(rank, count))
    picks = square_maxvol(rows).tolist()
    inverse = np.linalg.inv(rows[picks].T @ rows[picks])  # (R, R); ‖A_i A_S⁺‖² = A_i (A_Sᵀ A_S)⁻¹ A_iᵀ
    while len(picks) < count:
        reach = ((rows @ inverse) * rows).sum(1)
        reach[picks] = -1.0
        picks.append(int(reach.argmax()))
        along = inverse @ rows[picks[-1]]
        inverse -= np.outer(along, along) / (1 + rows[picks[-1]] @ along)
    return places[np.sort(np.array(picks, dtype=np.int64))]


@dataclass(frozen=True, kw_only=True)
class MaxInfo(Scored):
    """MaxInfo: the frames that span the most, whatever is asked (arXiv 2502.03183)."""

    name: str = "maxinfo"
    rank: Annotated[int, Field(ge=1)] = 8
    pool: Annotated[int, Field(ge=1)] = 256

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return max_volume(seen.features, budget, self.rank, self.pool)
