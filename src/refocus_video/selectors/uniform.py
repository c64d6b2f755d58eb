"""Frames at equal distances. Four different things are called uniform sampling; here each has its name.

| name | formula | where it is found |
|---|---|---|
| ``uniform`` (U2) | floor((i + ½)·F / K) | papers; the middle of each of K equal stretches |
| ``uniform-u1`` | floor(i·(F − 1) / (K − 1)) | loaders that call ``linspace`` and cut to whole numbers; both ends are in |
| ``uniform-u3`` | every round(rate / fps)-th candidate, and U1 among those | loaders that sample by rate first |
| ``uniform-u4`` | round(i·(F − 1) / (K − 1)) | Qwen's loader |

Where we differ:
1. U3 with fewer frames at its rate than the budget takes U1 of all candidates: a budget is always met.
2. U4 takes K as it is; the loader would choose an even number of frames by the length of the video.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.errors import check_budget
from refocus_video.selectors.base import Pick
from refocus_video.selectors.ranking import fitting
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Timeline
from refocus_video.video.sampling import uniform_positions


def uniform_u1(num_candidates: int, budget: int) -> IntArray:
    """Both ends and what lies evenly between them, cut to whole numbers, (min(K, F),)."""
    return np.linspace(0, num_candidates - 1, fitting(budget, num_candidates), dtype=np.int64)


def uniform_u2(num_candidates: int, budget: int) -> IntArray:
    """The middle of each of K equal stretches, (min(K, F),)."""
    return uniform_positions(num_candidates, fitting(budget, num_candidates))


def uniform_u3(times: FloatArray, budget: int, fps: float = 1.0) -> IntArray:
    """U1 among the candidates at a fixed rate, (min(K, F),).

    Args:
        times: of the candidates in seconds, (F,).
        budget: K.
        fps: the rate, per second.
    """
    lasting = times[-1] - times[0]
    rate = (len(times) - 1) / lasting if lasting > 0 else fps
    at_rate = np.arange(0, len(times), max(1, round(rate / fps)), dtype=np.int64)
    if len(at_rate) < fitting(budget, len(times)):
        return uniform_u1(len(times), budget)
    return at_rate[uniform_u1(len(at_rate), budget)]


def uniform_u4(num_candidates: int, budget: int) -> IntArray:
    """As U1, but rounded to the nearest whole number, halves to the even one, (min(K, F),)."""
    return np.linspace(0, num_candidates - 1, fitting(budget, num_candidates)).round().astype(np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    """The middle of each of K equal stretches (U2), whatever is asked."""

    name: str = "uniform"

    def open(self, candidates: Candidates | Timeline) -> "OpenUniform":
        """Only the number of candidates matters."""
        return OpenUniform(self, candidates.times)

    def positions(self, times: FloatArray, budget: int) -> IntArray:
        """What is picked among candidates at these times."""
        return uniform_u2(len(times), budget)


@dataclass(frozen=True, slots=True)
class UniformU1(Uniform):
    """Evenly from the first candidate to the last, cut to whole numbers."""

    name: str = "uniform-u1"

    def positions(self, times: FloatArray, budget: int) -> IntArray:
        """What is picked among candidates at these times."""
        return uniform_u1(len(times), budget)


@dataclass(frozen=True, slots=True)
class UniformU3(Uniform):
    """Evenly among the candidates at a fixed rate."""

    name: str = "uniform-u3"
    fps: Annotated[float, Field(gt=0)] = 1.0

    def positions(self, times: FloatArray, budget: int) -> IntArray:
        """What is picked among candidates at these times."""
        return uniform_u3(times, budget, self.fps)


@dataclass(frozen=True, slots=True)
class UniformU4(Uniform):
    """Evenly from the first candidate to the last, rounded."""

    name: str = "uniform-u4"

    def positions(self, times: FloatArray, budget: int) -> IntArray:
        """What is picked among candidates at these times."""
        return uniform_u4(len(times), budget)


@dataclass(frozen=True, slots=True)
class Stride(Uniform):
    """Every n-th candidate from the first on, n as large as the budget allows."""

    name: str = "stride"

    def positions(self, times: FloatArray, budget: int) -> IntArray:
        """What is picked among candidates at these times."""
        count = fitting(budget, len(times))
        return np.arange(count, dtype=np.int64) * (len(times) // count)


@dataclass(frozen=True, slots=True)
class OpenUniform:
    """Nothing but times are known of the video."""

    selector: Uniform
    times: FloatArray

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """The same for every question."""
        check_budget(budget, len(self.times))
        return [Pick(self.selector.positions(self.times, budget)) for _ in questions]
