"""Relevance from nowhere: what tests give to selectors instead of an image–text model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refocus_video.selectors.scored import Features, Seen
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Timeline


def unit(values: FloatArray) -> Features:
    """Rows of length 1, as float32."""
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def shots(count: int, width: int = 16, length: int = 12, seed: int = 0) -> Features:
    """Features of a video whose frames are alike within a shot, (F, D)."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(count // length + 1, width)), length, 0)[:count]
    return unit(centres + 0.5 * rng.normal(size=(count, width)))


def seen(scores: FloatArray, features: Features | None = None, seed: int = 0) -> Seen:
    """Scores with features and times to them; four candidates a second."""
    features = shots(len(scores), seed=seed) if features is None else features
    query = unit(np.random.default_rng(seed + 1).normal(size=(features.shape[1],)))
    return Seen(scores, features, query, np.arange(len(scores)) / 4, scale=100.0)


@dataclass(frozen=True)
class Given:
    """A scorer that says of every video what it was told."""

    shown: Seen

    def open(self, candidates: Candidates | Timeline) -> "Given":
        """The video plays no part."""
        assert len(candidates) == len(self.shown.scores)
        return self

    def see(self, question: Question) -> Seen:
        """Nor does the question."""
        return self.shown


def timeline(count: int, fps: float = 4.0) -> Timeline:
    """Candidates without pictures."""
    return Timeline("video.mp4", np.arange(count) * 6, np.arange(count) / fps)


Shape = Callable[[int], FloatArray]


def _noise(count: int) -> FloatArray:
    return np.random.default_rng(count).normal(0.25, 0.02, count)


def _peak(count: int) -> FloatArray:
    return np.asarray(np.exp(-0.5 * ((np.arange(count) - count * 0.3) / max(1.0, count * 0.01)) ** 2))


def _spike(count: int) -> FloatArray:
    scores = np.zeros(count)
    scores[count // 2] = 1.0
    return scores


def _holes(count: int) -> FloatArray:
    scores = _noise(count)
    scores[::3] = np.nan
    scores[count // 2] = np.inf
    return scores


SHAPES: dict[str, Shape] = {
    "noise": _noise,
    "peak": _peak,
    "spike": _spike,
    "rising": lambda count: np.arange(count, dtype=np.float64),
    "two values": lambda count: (np.arange(count) % 2).astype(np.float64),
    "constant": lambda count: np.full(count, 0.3),
    "zeros": np.zeros,
    "holes": _holes,
    "all NaN": lambda count: np.full(count, np.nan),
}


def check_positions(found: IntArray, count: int, budget: int) -> None:
    """Exactly min(K, F) distinct positions in temporal order."""
    assert found.dtype == np.int64 and found.shape == (min(budget, count),)
    assert (np.diff(found) > 0).all() and found[0] >= 0 and found[-1] < count
