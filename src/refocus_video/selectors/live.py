"""Videos that are not finished: frames handed over as they come, and files that still grow. Nothing is indexed twice.

Candidates of a growing file are chosen by the clock (:func:`refocus_video.video.sampling.clock_indices`) and without a
limit, since a choice that is spread evenly over the whole video would change with every further frame.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from refocus_video.errors import BudgetError, DataError, VideoError
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex
from refocus_video.selectors.picking import Options
from refocus_video.selectors.stream import OnProgress, extend_with, group_size, index_frames, no_progress, split
from refocus_video.types import ByteArray, FloatArray, IntArray, Question, Selection, Timeline
from refocus_video.video.pixels import scaled
from refocus_video.video.reader import MAX_REORDERING, VideoReader
from refocus_video.video.sampling import clock_indices

if TYPE_CHECKING:
    from refocus_video.selectors.learned import IndexedVideo

Opened = Callable[[Timeline, VideoIndex], "IndexedVideo"]


class LiveVideo:
    """A video whose frames the caller hands over as they come.

    Example::

        live = selector.live("camera 3")
        live.push(frames, times)                       # any number of times
        live.select("Who is at the door?", frames=8)   # at any time, of the frames so far
    """

    def __init__(self, policy: FramePolicy, name: str, opened: Opened) -> None:
        """See :meth:`refocus_video.FrameSelector.live`."""
        self._policy = policy
        self._opened = opened
        self._timeline = Timeline(name, np.empty(0, np.int64), np.empty(0, np.float64))
        self._index = policy.start_index()

    def __repr__(self) -> str:
        """A line: the name, and which frames there are so far."""
        return f"{type(self).__name__}({self._timeline.summary()})"

    def __len__(self) -> int:
        return len(self._timeline)

    @property
    def timeline(self) -> Timeline:
        """The candidate frames so far."""
        return self._timeline

    def push(self, frames: ByteArray, times: FloatArray, frame_indices: IntArray | None = None) -> None:
        """Append frames; every one becomes a candidate.

        Args:
            frames: (N, H, W, 3) uint8 RGB of any size; they are scaled to what the policy looks at.
            times: seconds, (N,), not before those of earlier frames.
            frame_indices: what selections call the frames, (N,), strictly increasing; counted on if left out.

        Raises:
            DataError: when shapes do not fit or frames are out of order. Nothing is appended then.
        """
        times = np.asarray(times, dtype=np.float64)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) != len(times):
            raise DataError(
                f"push takes (N, H, W, 3) uint8 frames and N times, "
                f"found {frames.shape} {frames.dtype} and {len(times)} times"
            )
        if frame_indices is None:
            before = self._timeline.frame_indices
            frame_indices = np.arange(len(frames), dtype=np.int64) + (before[-1] + 1 if len(before) else 0)
        timeline = _appended(self._timeline, frame_indices, times)
        side = self._policy.config.vision.image_size
        groups = (scaled(part, (side, side)) for part in split(frames, group_size(self._policy)))
        self._index = extend_with(self._policy, self._index, groups, len(frames))
        self._timeline = timeline

    def opened(self) -> "IndexedVideo":
        """The video as it is now; frames that come later do not change it.

        Raises:
            BudgetError: while there is no frame.
        """
        if not len(self):
            raise BudgetError(f"{self._timeline.video} has no candidate frame yet; push frames before selecting")
        return self._opened(self._timeline, self._index)

    def select(self, question: str | Question, frames: int = 8, **options: Unpack[Options]) -> Selection:
        """Pick among the frames so far; see :meth:`refocus_video.FrameSelector.select`."""
        return self.opened().select(question, frames, **options)


class GrowingVideo(LiveVideo):
    """A video file that is still being written, in a format that can be read meanwhile (MPEG-TS, fragmented MP4, MKV).

    Example::

        video = selector.follow("recording.ts")
        video.select("What was said last?", frames=8)
        video.refresh()                                # decodes, encodes and indexes only what is new
    """

    def __init__(self, policy: FramePolicy, path: str | Path, fps: float, opened: Opened) -> None:
        """See :meth:`refocus_video.FrameSelector.follow`."""
        super().__init__(policy, str(path), opened)
        self._fps = fps

    def refresh(self, *, final: bool = False, progress: OnProgress = no_progress) -> int:
        """Append what the file has gained; returns the number of new candidates.

        Args:
            final: whether the file is complete. Until then its last few frames are held back, because frames that
                are shown before them may still be written after them.
            progress: called while indexing.

        Raises:
            VideoError: when the file cannot be read, or is no longer the one whose frames were indexed. What was
                indexed stays as it is.
        """
        path = self._timeline.video
        with VideoReader(path) as reader:
            times = reader.times if final else reader.times[: max(0, len(reader.times) - MAX_REORDERING)]
            indices = clock_indices(times, self._fps)
            known = len(self)
            if not (
                np.array_equal(indices[:known], self._timeline.frame_indices)
                and np.array_equal(times[indices[:known]], self._timeline.times)
            ):
                raise VideoError(
                    f"{path}: the {known} frames indexed before are not the first ones of the file any more; "
                    "follow it anew"
                )
            new = indices[known:]
            if len(new):
                timeline = _appended(self._timeline, new, times[new])
                self._index = index_frames(self._policy, self._index, reader, new, progress=progress)
                self._timeline = timeline
        return len(new)


def _appended(timeline: Timeline, frame_indices: IntArray, times: FloatArray) -> Timeline:
    return Timeline(
        timeline.video,
        np.concatenate([timeline.frame_indices, np.asarray(frame_indices, dtype=np.int64)]),
        np.concatenate([timeline.times, times]),
    )
