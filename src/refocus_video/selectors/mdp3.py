"""mDP3: relevant and different frames by a determinantal point process, stretch by stretch (arXiv 2501.02885, ICCV 2025).

    k(x, y) = Σ_a exp(−‖x − y‖² / 2a), a = 1/8 … 2;   r_i = k(f_i, q);   L_ij = k(f_i, f_j)
    value of frames S after frame c:  (2/λ)·Σ_{i∈S} log r_i + log det L_{S∪c} − log det L_c

The candidates are cut into stretches of m = 32. Going through them, the best value of n frames so far is the best over
all ways to have taken n − j before and to take j greedily from this stretch, given the frame that was picked last. What
costs time is shared: all ways of having gone on from one frame are one greedy run, and all runs of a stretch are one
batch (Cholesky factors grow by one row a step).

Where we differ from the published plug-in:
1. The value is the conditional one of the paper, as above. There, the frame before is counted again, with its
   relevance, unless nothing is taken.
2. The frame before is the latest in time. Our source leaves open whether it may be the one that was picked last.
3. A stretch ends with the video; there, the last one runs over when m does not divide F.
4. Frames that say nothing new have a variance of at least 1e-9 instead of the absolute value of a rounding error.
5. More than ``pool`` candidates are thinned out evenly; the published pool is 128.

Legend: F candidates, D width, M frames of a stretch, B different frames to go on from, K picks.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from refocus_video.selectors.ranking import comparable, fitting
from refocus_video.selectors.scored import Features, Scored, Seen
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import FloatArray, IntArray

SMALLEST = 1e-9
"""Variance of a frame that says nothing new."""
NOTHING = -1
"""Stands for the frame before when none was picked."""


def kernel(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> FloatArray:
    """The sum of five Gaussians: (..., M, D) and (N, D) -> (..., M, N)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    distance = (x**2).sum(-1)[..., None] + (y**2).sum(-1) - 2 * x @ y.T
    once = np.exp(-np.maximum(distance, 0) / 4)  # the widest; the others are its powers
    twice = once * once
    four = twice * twice
    eight = four * four
    result: FloatArray = once + twice + four + eight + eight * eight
    return result


def greedy(quality: FloatArray, within: FloatArray, before: FloatArray, steps: int) -> tuple[IntArray, FloatArray]:
    """The frames of one stretch in the order in which greed takes them, for each frame to go on from.

    Args:
        quality: (2/λ)·log r of each frame, (M,).
        within: kernel between the frames, (M, M).
        before: between each frame to go on from and the frames, divided by the root of its own; zeros for none, (B, M).
        steps: how many to take.

    Returns:
        Positions in the stretch, (B, steps), and the gain of each, (B, steps).
    """
    rows, runs = np.zeros((len(before), steps + 1, len(quality))), np.arange(len(before))
    rows[:, 0] = before
    variance = np.diagonal(within) - before**2  # (B, M)
    free = np.ones_like(variance, dtype=bool)
    picks, gains = np.empty((len(before), steps), dtype=np.int64), np.empty((len(before), steps))
    for step in range(steps):
        gain = np.where(free, quality + np.log(np.maximum(variance, SMALLEST)), -np.inf)
        best = gain.argmax(1)
        picks[:, step], gains[:, step] = best, gain[runs, best]
        free[runs, best] = False
        known = rows[:, : step + 1]
        shared = (known[runs, :, best][:, None] @ known)[:, 0]  # (B, M)
        row = (within[best] - shared) / np.sqrt(np.maximum(variance[runs, best], SMALLEST))[:, None]
        rows[:, step + 1] = row
        variance = variance - row**2
    return picks, gains


def mdp3(
    features: Features, query: Features, budget: int, weight: float = 0.2, segment: int = 32, pool: int = 1024
) -> IntArray:
    """The best list of frames, (min(K, F),) in temporal order.

    Args:
        features: of the candidates, length 1, (F, D).
        query: of the question, length 1, (D,).
        budget: K.
        weight: λ, the weight of difference against relevance.
        segment: m, frames of a stretch.
        pool: the most candidates that are looked at.
    """
    comparing = comparable(features)
    if comparing is None:
        return uniform_u2(len(features), budget)
    count = fitting(budget, len(features))
    places = uniform_u2(len(features), max(pool, count))
    looked = comparing[places]
    quality = 2 / weight * np.log(kernel(looked, np.nan_to_num(query)[None])[:, 0])
    best = np.full(count + 1, -np.inf)
    best[0] = 0.0
    last = np.full(count + 1, NOTHING, dtype=np.int64)
    history: list[tuple[IntArray, IntArray, IntArray]] = []
    for first in range(0, len(looked), segment):
        part = slice(first, min(first + segment, len(looked)))
        steps = min(count, part.stop - first)
        before, run = np.unique(last, return_inverse=True)
        towards = kernel(looked[before], looked[part]) / np.sqrt(5.0)  # k(x, x) = 5
        towards[before == NOTHING] = 0.0
        picks, gains = greedy(quality[part], kernel(looked[part], looked[part]), towards, steps)
        value = np.concatenate([np.zeros((len(before), 1)), gains.cumsum(1)], 1)  # (B, steps + 1)
        taken, origin = _best_ways(best, value[run])
        best = (best[origin] + value[run[origin], taken]).astype(np.float64)
        history.append((taken, run, picks + first))
        latest = np.maximum.accumulate(picks, 1) + first
        last = np.where(taken > 0, latest[run[origin], np.maximum(taken, 1) - 1], last)
    return places[_trace(history, count)]


def _best_ways(best: FloatArray, value: FloatArray) -> tuple[IntArray, IntArray]:
    """How many frames to take here so that there are n in all, and how many there were before: (K + 1,) each.

    ``best`` is the value of each number before, (K + 1,); ``value`` of going on from there with j more, (K + 1, steps + 1).
    """
    total = np.arange(len(best))[:, None]
    more = np.arange(value.shape[1])[None]
    earlier = np.maximum(total - more, 0)
    ways = np.where(total >= more, best[earlier] + value[earlier, more], -np.inf)
    taken = ways.argmax(1).astype(np.int64)
    return taken, np.arange(len(best)) - taken


def _trace(history: list[tuple[IntArray, IntArray, IntArray]], count: int) -> IntArray:
    """The frames of the best way to ``count``, in temporal order."""
    found: list[IntArray] = []
    for taken, run, picks in reversed(history):
        here = int(taken[count])
        count -= here
        found.append(picks[run[count], :here])
    return np.sort(np.concatenate(found))


@dataclass(frozen=True, kw_only=True)
class Mdp3(Scored):
    """mDP3: relevant and different frames, by determinants (arXiv 2501.02885)."""

    name: str = "mdp3"
    weight: Annotated[float, Field(gt=0)] = 0.2
    segment: Annotated[int, Field(ge=1)] = 32
    pool: Annotated[int, Field(ge=1)] = 1024

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Nothing is drawn."""
        return mdp3(seen.features, seen.query, budget, self.weight, self.segment, self.pool)
