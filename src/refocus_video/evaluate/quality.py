"""How good a choice of frames is, without asking any model: pure NumPy, every number finite.

Dimensions: K chosen frames · C scenes · B bins. A *scene* is something that must be seen, as one or several stretches of the video
(:data:`~refocus_video.data.scenes.Scene`). Relative times are seconds over the video's seconds, 0..1.

Scene measures follow KFS-Bench (WACV 2026, arXiv 2512.14017), written anew from their formulas. They are not monotone in K: compare
at equal budgets only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refocus_video.data.scenes import Scene
from refocus_video.errors import DataError
from refocus_video.types import BoolArray, FloatArray

FLOOR = 0.01
"""What a question's UKSS counts at least in a data set's geometric mean."""
BINS = 20
"""Equal parts of a video in which times are counted."""
CLOSEST = 1e-6
"""Relative times nearer than this count as this far apart in the entropy, or a repeated time would make it minus infinity."""
EXPONENTS = np.arange(11) / 10


class Found(NamedTuple):
    """What a choice of frames holds of the scenes; all 0..1 and 0 for a choice without frames."""

    hit: float
    """1 if any frame lies in any scene."""
    precision: float
    """Key-frame rate: see :func:`precision`."""
    scene_hit_rate: float
    """See :func:`scene_hit_rate`."""
    balanced_recall: float
    """See :func:`balanced_scene_recall`."""
    balance: float
    """See :func:`balanced_similarity`."""
    ukss: float
    """See :func:`ukss`."""


def found(times: Sequence[float], scenes: Sequence[Scene]) -> Found:
    """All scene measures of one question.

    Args:
        times: of the K chosen frames in seconds.
        scenes: C of them, at least one.

    Raises:
        DataError: there are no scenes.
    """
    inside = frames_in_scenes(times, scenes)
    lengths = scene_lengths(scenes)
    key, recall, balance = (
        precision(inside),
        balanced_scene_recall(inside, lengths),
        balanced_similarity(inside, lengths),
    )
    return Found(float(inside.any()), key, scene_hit_rate(inside), recall, balance, ukss(key, recall, balance))


def frames_in_scenes(times: Sequence[float], scenes: Sequence[Scene]) -> BoolArray:
    """Whether each frame lies in each scene, both ends included: (C, K)."""
    if not scenes or not all(scenes):
        raise DataError("scene measures need at least one scene with a stretch of the video each")
    rows = [[any(span.contains(t) for span in scene) for t in times] for scene in scenes]
    return np.array(rows, dtype=np.bool_).reshape(len(scenes), len(times))


def scene_lengths(scenes: Sequence[Scene]) -> FloatArray:
    """Seconds of each scene, L (C,): the sum over its stretches."""
    return np.array([sum(span.end_s - span.start_s for span in scene) for scene in scenes], dtype=np.float64)


def precision(inside: BoolArray) -> float:
    """Key-frame rate, KFR = n_tp / K, with n_tp the frames that lie in any scene."""
    return float(inside.any(axis=0).mean()) if inside.shape[1] else 0.0


def scene_hit_rate(inside: BoolArray) -> float:
    """SHR = mean over scenes of 1[n_c > 0], with n_c the frames in scene c."""
    return float(inside.any(axis=1).mean())


def balanced_scene_recall(inside: BoolArray, lengths: FloatArray) -> float:
    """BSR = mean over scenes of 1[n_c ≥ max(1, ⌊min(n_tp·L_c/ΣL, n_tp/C)⌋)].

    A scene counts when it has its share of the useful frames, by length or by number of scenes, whichever asks for fewer.
    Where no scene has any length, the share by number is asked for.
    """
    useful, total = int(inside.any(axis=0).sum()), lengths.sum()
    by_number = np.full(len(lengths), useful / len(lengths))
    by_length = lengths * useful / total if total > 0 else by_number
    wanted = np.maximum(1, np.floor(np.minimum(by_length, by_number)))
    return float((inside.sum(axis=1) >= wanted).mean())


def balanced_similarity(inside: BoolArray, lengths: FloatArray) -> float:
    """BDS = max over e in {0, 0.1, …, 1} of cos(n, L^e), 0 if no frame is useful.

    1 when the frames are spread over the scenes evenly (e = 0), by length (e = 1) or anything between.
    """
    counts = inside.sum(axis=1).astype(np.float64)
    if not counts.any():
        return 0.0
    ideals = lengths[:, None] ** EXPONENTS
    # An ideal without length points nowhere; e = 0 always points somewhere.
    norms = np.maximum(np.linalg.norm(ideals, axis=0), np.finfo(np.float64).tiny)
    return min(1.0, float((counts @ ideals / norms).max() / np.linalg.norm(counts)))


def ukss(key_frame_rate: float, balanced_recall: float, balance: float) -> float:
    """Unified key-frame sampling score of one question: (KFR · BSR · BDS)^(1/3)."""
    return float(np.cbrt(key_frame_rate * balanced_recall * balance))


def overall_ukss(values: npt.ArrayLike) -> float:
    """UKSS of a data set: exp(mean(ln(max(u, 0.01)))), the geometric mean with a floor. ``values`` (N,), N ≥ 1."""
    return float(np.exp(log_ukss(values).mean()))


def log_ukss(values: npt.ArrayLike) -> FloatArray:
    """ln(max(u, 0.01)) of each question, (N,): what :func:`overall_ukss` takes the mean of."""
    return np.asarray(np.log(np.maximum(np.asarray(values, dtype=np.float64), FLOOR)))


def coverage(times: Sequence[float], seconds: float, reach_s: float) -> float:
    """Share of the video 0..``seconds`` that lies within ``reach_s`` of a chosen frame. A video of no length is covered by any."""
    if not len(times):
        return 0.0
    if seconds <= 0:
        return 1.0
    centres = np.sort(np.asarray(times, dtype=np.float64))
    starts, ends = np.clip(centres - reach_s, 0, seconds), np.clip(centres + reach_s, 0, seconds)
    reached = np.concatenate([[0.0], np.maximum.accumulate(ends)[:-1]])
    return float(np.maximum(ends - np.maximum(starts, reached), 0).sum() / seconds)


def largest_gap(times: Sequence[float], seconds: float) -> float:
    """Longest stretch of 0..``seconds`` without a chosen frame, before the first and after the last included, as a share of it."""
    if not len(times):
        return 1.0
    if seconds <= 0:
        return 0.0
    edges = np.clip(np.concatenate([[0.0], np.sort(np.asarray(times, dtype=np.float64)), [seconds]]), 0, seconds)
    return float(np.diff(edges).max() / seconds)


def crowding(times: Sequence[float], seconds: float) -> float:
    """Redundancy by time: share of neighbouring frames less than half of ``seconds``/K apart, which even spacing never is.

    0 for evenly spaced frames, 1 for all in one clump; 0 for fewer than two.
    """
    if len(times) < 2:
        return 0.0
    steps = np.diff(np.sort(np.asarray(times, dtype=np.float64)))
    return float((steps < 0.5 * seconds / len(times)).mean())


def mean_similarity(features: npt.ArrayLike) -> float:
    """Redundancy by content: mean cosine similarity over all pairs of chosen frames' ``features`` (K, D).

    A frame whose features are all 0 is similar to none; 0 for fewer than two frames.
    """
    rows = np.asarray(features, dtype=np.float64)
    if len(rows) < 2:
        return 0.0
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    pairs = len(rows) * (len(rows) - 1)
    return float(((units @ units.T).sum() - (units * units).sum()) / pairs)


def relative(times: Sequence[float], seconds: float) -> FloatArray:
    """Times as shares of the video, clipped to 0..1; all 0 in a video of no length."""
    values = np.asarray(times, dtype=np.float64)
    return np.clip(values / seconds, 0, 1) if seconds > 0 else np.zeros_like(values)


def time_entropy(relative_times: npt.ArrayLike) -> float | None:
    """Kozachenko–Leonenko estimate of the differential entropy of relative times (METHOD §8), in nats.

    With ε_i the distance to the nearest other time, H = ψ(K) − ψ(1) + ln 2 + mean ln ε_i,
    where ψ(K) − ψ(1) = 1 + 1/2 + … + 1/(K−1). Random times of an even distribution have about 0, evenly spaced ones more (towards
    1.27), a clump much less. Distances count at least 1e-6.

    Returns:
        None for fewer than two times.
    """
    values = np.sort(np.asarray(relative_times, dtype=np.float64))
    if len(values) < 2:
        return None
    steps = np.diff(values)
    nearest = np.minimum(np.concatenate([[np.inf], steps]), np.concatenate([steps, [np.inf]]))
    harmonic = float((1 / np.arange(1, len(values))).sum())
    return harmonic + float(np.log(2)) + float(np.log(np.maximum(nearest, CLOSEST)).mean())


def time_distribution(relative_times: npt.ArrayLike, bins: int = BINS) -> FloatArray:
    """Share of the times in each of ``bins`` equal parts of the video, (B,); all 0 without times."""
    counts, _ = np.histogram(np.asarray(relative_times, dtype=np.float64), bins=bins, range=(0, 1))
    return np.asarray(counts / max(1, counts.sum()), dtype=np.float64)


def kl_to_uniform(shares: npt.ArrayLike) -> float:
    """Position bias: KL(p ‖ uniform) = Σ p_b ln(B·p_b) in nats, 0..ln B, with 0·ln 0 = 0."""
    p = np.asarray(shares, dtype=np.float64)
    kept = p[p > 0]
    return max(0.0, float((kept * np.log(len(p) * kept)).sum()))


def js_divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen–Shannon divergence ½KL(p‖m) + ½KL(q‖m), m = (p + q)/2, of two distributions (B,), in nats: 0..ln 2.

    Raises:
        DataError: they have different lengths, or do not each sum to 1.
    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"a divergence needs two distributions over the same bins, found {first.shape}, {second.shape}")
    if not (np.isclose(first.sum(), 1) and np.isclose(second.sum(), 1)):
        raise DataError(f"distributions must sum to 1, found {first.sum():g} and {second.sum():g}")
    middle = (first + second) / 2
    halves = [float((d[d > 0] * np.log(d[d > 0] / middle[d > 0])).sum()) / 2 for d in (first, second)]
    return min(float(np.log(2)), max(0.0, sum(halves)))


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Jaccard: frames in both over frames in either, of two choices given as frame indices (or times); 1 for two empty ones."""
    first, second = set(a), set(b)
    return len(first & second) / len(first | second) if first | second else 1.0
