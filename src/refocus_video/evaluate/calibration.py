"""How far a model's confidence can be believed, which letters it likes, what goes with what. Pure NumPy, intervals over videos.

Every interval of this module is one of sums over rows (:func:`refocus_video.evaluate.metrics.bootstrap_sums`), whole videos drawn.

Dimensions: N rows · B bins · L letters · R draws.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import numpy.typing as npt

from refocus_video.evaluate.metrics import bootstrap_interval, bootstrap_sums, with_ends
from refocus_video.types import FloatArray, IntArray

Row = dict[str, Any]

BINS = 10
"""Equal parts of 0..1 in which confidences are put."""


def bin_of(confidence: npt.ArrayLike, bins: int = BINS) -> IntArray:
    """The bin 0..B-1 of each confidence in 0..1, (N,); a bin holds its lower end, the last one both."""
    values = np.asarray(confidence, dtype=np.float64)
    return np.clip((values * bins).astype(np.int64), 0, bins - 1)


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> list[Row]:
    """One row for each bin that holds anything: mean confidence, share right, count. That is the calibration curve."""
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = bin_of(sure, bins)
    return [
        {"confidence": float(sure[here].mean()), "accuracy": float(right[here].mean()), "n": int(here.sum())}
        for here in (place == b for b in range(bins))
        if here.any()
    ]


def calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, videos: Sequence[Hashable], bins: int = BINS
) -> Row:
    """Expected calibration error Σ_b n_b/N · |share right − mean confidence| (Guo et al., 2017), as ``ece`` with its ends.

    Like everything that counts distances it is above 0 by chance as well, the more the fewer rows there are.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    gaps = np.zeros((len(sure), bins + 1))
    gaps[np.arange(len(sure)), bin_of(sure, bins)] = right - sure
    gaps[:, bins] = 1

    def error(sums: FloatArray) -> FloatArray:
        return np.asarray(np.abs(sums[:, :bins]).sum(1) / sums[:, bins])

    return _measured("ece", gaps, videos, error)


def correlation(x: npt.ArrayLike, y: npt.ArrayLike, videos: Sequence[Hashable]) -> Row:
    """Pearson's correlation of (N,) and (N,) as ``r`` with its ends; None where one of them does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    def pearson(sums: FloatArray) -> FloatArray:
        n, sa, sb, aa, bb, ab = sums.T
        spread = (n * aa - sa**2) * (n * bb - sb**2)
        level = (1e-9 * n**2) ** 2
        return np.where(spread > level, (n * ab - sa * sb) / np.sqrt(np.maximum(spread, level)), np.nan)

    return _measured("r", np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1), videos, pearson)


def within(values: npt.ArrayLike, groups: Sequence[Hashable]) -> FloatArray:
    """Values (N,) minus the mean of their group: what is left to a choice inside the group."""
    numbers = np.asarray(values, dtype=np.float64)
    _, place = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    means = np.bincount(place, weights=numbers) / np.bincount(place)
    return np.asarray(numbers - means[place], dtype=np.float64)


def letter_bias(picked: Sequence[int], right: Sequence[int], options: Sequence[int], videos: Sequence[Hashable]) -> Row:
    """Which letters are picked, over questions of which each is asked with its options in every rotation.

    Every letter is then right equally often, so that a model without a liking picks each with 1/O, whatever it knows.

    Args:
        picked: place of the option picked, as shown, (N,).
        right: place of the right one, (N,).
        options: how many there were, (N,).
        videos: of each row, (N,).

    Returns:
        ``picked`` and ``expected`` shares by letter, ``variation`` (total variation between the two, 0..1) with its ends,
        ``favourite`` and by how much it is picked too often (``excess`` with its ends), ``accuracy`` by the right letter, and the
        ``spread`` between the best and the worst of these.
    """
    letters, count = max(options), len(picked)
    place, number = np.asarray(picked), np.asarray(options)
    chosen = np.eye(letters)[place]
    fair = np.where(np.arange(letters) < number[:, None], 1 / number[:, None], 0.0)
    excess = np.column_stack([chosen - fair, np.ones(count)])

    def variation(sums: FloatArray) -> FloatArray:
        return np.asarray(np.abs(sums[:, :letters]).sum(1) / 2 / sums[:, letters])

    favourite = int(excess[:, :letters].mean(0).argmax())
    over = excess[:, favourite]
    names = ascii_uppercase[:letters]
    hits, asked = Counter(r for p, r in zip(picked, right, strict=True) if p == r), Counter(right)
    accuracy = {name: hits[i] / asked[i] for i, name in enumerate(names) if asked[i]}
    return {
        "n": count,
        "picked": dict(zip(names, chosen.mean(0).tolist(), strict=True)),
        "expected": dict(zip(names, fair.mean(0).tolist(), strict=True)),
        **_measured("variation", excess, videos, variation),
        "favourite": names[favourite],
        **with_ends("excess", float(over.mean()), bootstrap_interval(over, videos)),
        "accuracy": accuracy,
        "spread": max(accuracy.values()) - min(accuracy.values()),
    }


def _measured(name: str, columns: FloatArray, videos: Sequence[Hashable], statistic: Any) -> Row:
    value = float(statistic(columns.sum(0, keepdims=True))[0])
    return with_ends(name, None if math.isnan(value) else value, bootstrap_sums(columns, videos, statistic))
