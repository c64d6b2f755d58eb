"""The records that travel between rooms: frozen, and checked where they are made.

Three numbers name a frame and are never mixed: its *position* 0..F-1 among the candidates, its *frame index* in the
source video, and its *time* in seconds (the presentation time stored in the file, not index / fps).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refocus_video.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""(title, total) -> a context whose value advances a progress bar by one."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a video. It never carries the answer: a selector sees this record and nothing more."""

    text: str
    options: tuple[str, ...] = ()
    """Answer options in the order shown; empty for an open-ended question."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError("the question text is empty; give at least one word")
        if len(self.options) == 1:
            raise DataError(f"a question needs at least 2 options or none at all, found 1: {self.options[0]!r}")
        if len(set(self.options)) != len(self.options):
            raise DataError(f"options must differ from each other, found {list(self.options)}")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a video in seconds, both ends included."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.start_s <= self.end_s:
            raise DataError(f"an evidence span must not end before it starts, found {self.start_s}..{self.end_s} s")

    def contains(self, time_s: float) -> bool:
        """Whether a presentation time lies inside the span."""
        return self.start_s <= time_s <= self.end_s


@dataclass(frozen=True, slots=True)
class Example:
    """A question about a video together with its answer: for training and evaluation only."""

    id: str
    video: str
    """Path of the video file."""
    question: Question
    answer: int
    """Position of the right one among :attr:`texts`."""
    evidence: tuple[Span, ...] = ()
    """The stretches that must *all* be seen to answer; empty when unknown."""
    question_type: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    """The texts that count as right for a question without options; empty for a question with them."""

    def __post_init__(self) -> None:
        if not self.id:
            raise DataError("an example needs a non-empty id")
        if bool(self.question.options) == bool(self.accepted):
            raise DataError(
                f"example {self.id!r}: needs either options or accepted answers, "
                f"found {len(self.question.options)} options and {len(self.accepted)} accepted answers"
            )
        if not 0 <= self.answer < len(self.texts):
            raise DataError(
                f"example {self.id!r}: answer must be the position of one of its {len(self.texts)} "
                f"{'options' if self.question.options else 'accepted answers'} (0..{len(self.texts) - 1}), "
                f"found {self.answer}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """What ``answer`` counts: the options, or the accepted answers of an open-ended question."""
        return self.question.options or self.accepted


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which F frames of a video are its candidates, without their pictures."""

    video: str
    frame_indices: IntArray
    """Position of each candidate in the source video, (F,), strictly increasing."""
    times: FloatArray
    """Presentation time of each candidate in seconds, (F,), non-decreasing."""

    def __post_init__(self) -> None:
        if self.frame_indices.ndim != 1 or self.frame_indices.shape != self.times.shape:
            raise DataError(
                f"candidates need one frame index and one time each, "
                f"found {self.frame_indices.shape} and {self.times.shape}"
            )
        if (np.diff(self.frame_indices) <= 0).any() or (np.diff(self.times) < 0).any():
            raise DataError("candidates must be in the order in which they are shown: indices and times must increase")

    def __len__(self) -> int:
        return len(self.frame_indices)

    def summary(self) -> str:
        """The video, how many candidates there are, and from when to when."""
        span = f", {self.times[0]:.2f}–{self.times[-1]:.2f} s" if len(self) else ""
        return f"{self.video!r}, {len(self)} candidates{span}"


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pool of F frames sampled from one video, from which frames are picked."""

    video: str
    frames: ByteArray
    """RGB pictures, (F, height, width, 3) uint8."""
    frame_indices: IntArray
    """Position of each candidate in the source video, (F,), strictly increasing."""
    times: FloatArray
    """Presentation time of each candidate in seconds, (F,), non-decreasing."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise DataError(f"frames must be (F, H, W, 3) uint8, found {self.frames.shape} {self.frames.dtype}")
        if not (self.frame_indices.shape == self.times.shape == (count,)):
            raise DataError(
                f"{count} frames need {count} frame indices and times, "
                f"found {self.frame_indices.shape} and {self.times.shape}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def timeline(self) -> Timeline:
        """The same without the pictures."""
        return Timeline(self.video, self.frame_indices, self.times)


@dataclass(frozen=True, slots=True)
class Selection:
    """The frames chosen for one question about one video, in temporal order: what a user takes away."""

    video: str
    question: Question
    selector: str
    positions: IntArray
    """Positions among the candidates, (K,), increasing."""
    frame_indices: IntArray
    """Positions in the source video, (K,)."""
    times: FloatArray
    """Presentation times in seconds, (K,)."""
    order: IntArray
    """Rank in which each frame was picked, (K,): 0 was picked first."""
    probabilities: FloatArray | None = None
    """Probability of each pick at the moment it was made, (K,); None for selectors without one."""

    def __post_init__(self) -> None:
        if len(self.positions) == 0 or (np.diff(self.positions) <= 0).any():
            raise DataError(f"a selection holds distinct positions in increasing order, found {self.positions}")

    def __len__(self) -> int:
        return len(self.positions)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that ``json.dumps`` takes."""
        rows: dict[str, Any] = {
            "video": self.video,
            "question": self.question.text,
            "options": list(self.question.options),
            "selector": self.selector,
            "positions": self.positions.tolist(),
            "frame_indices": self.frame_indices.tolist(),
            "times": [round(float(t), 6) for t in self.times],
            "order": self.order.tolist(),
        }
        if self.probabilities is not None:
            rows["probabilities"] = [round(float(p), 6) for p in self.probabilities]
        return rows
