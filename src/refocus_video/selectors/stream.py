"""Indexing a video as a stream of frame groups: memory does not grow with its length, keys and values aside.

While one group is encoded, projected and run through the backbone, a thread decodes the next. Of each group only keys,
values and the state are kept.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from refocus_video.config import SamplingConfig
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex
from refocus_video.types import ByteArray, IntArray, Timeline
from refocus_video.video.ahead import ahead
from refocus_video.video.candidates import candidate_timeline, frame_groups
from refocus_video.video.reader import VideoReader

MOST_FRAMES = 64
"""Most frames in a group when none are stated."""


@dataclass(frozen=True, slots=True)
class IndexingProgress:
    """How far the indexing of a video has come."""

    done: int
    """Frames indexed."""
    total: int
    """Frames to index."""
    seconds: float
    """Since the start."""

    @property
    def frames_per_s(self) -> float:
        """Frames indexed a second, decoding included."""
        return self.done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At the speed so far; not a number before the first group is done."""
        return (self.total - self.done) / self.frames_per_s if self.done else float("nan")


OnProgress = Callable[[IndexingProgress], object]


def no_progress(_: IndexingProgress) -> None:
    """Watch nothing."""


def group_size(policy: FramePolicy) -> int:
    """Frames that are decoded, encoded and run at once: what fits one segment of the backbone."""
    return min(MOST_FRAMES, policy.frames_per_segment)


def split(frames: ByteArray, group: int) -> Iterator[ByteArray]:
    """Frames that are in memory already, group by group."""
    return (frames[start : start + group] for start in range(0, len(frames), group))


@torch.no_grad()
def extend_with(
    policy: FramePolicy,
    index: VideoIndex,
    groups: Iterable[ByteArray],
    frames: int,
    done: Callable[[int], object] = lambda _: None,
) -> VideoIndex:
    """The index of one video with further frames.

    Args:
        policy: which reads the frames.
        index: of the frames so far, or ``policy.start_index()``.
        groups: the frames that follow, (S, H, W, 3) uint8 each, at the size of the policy's tower.
        frames: how many follow in all.
        done: called after each group with its number of frames.
    """
    # Keys and values get their place at once. Kept as they come, between the large tensors that each group needs for
    # a moment, they would hold pieces of the heap open many times their own size.
    state, at = index.state, len(index)
    keys, values = _with_room(index.keys, frames), _with_room(index.values, frames)
    for group in groups:
        part = policy.continue_index(state, policy.encode(group)[None])
        state, end = part.state, at + len(part)
        keys[:, at:end], values[:, at:end] = part.keys, part.values
        at = end
        done(len(group))
    assert at == keys.shape[1], "as many frames as were promised"
    valid = torch.cat([index.valid, index.valid.new_ones(1, frames)], 1)
    return VideoIndex(keys, values, valid, state)


def _with_room(kept: Tensor, frames: int) -> Tensor:
    """(1, F, D) with room for further frames: (1, F + frames, D)."""
    known = kept.shape[1]
    longer = kept.new_empty(1, known + frames, kept.shape[2])
    longer[:, :known] = kept
    return longer


def index_frames(
    policy: FramePolicy,
    index: VideoIndex,
    reader: VideoReader,
    frame_indices: IntArray,
    *,
    group: int | None = None,
    progress: OnProgress = no_progress,
) -> VideoIndex:
    """The index of a video with further frames of an open file; otherwise as :func:`index_video`."""
    side, begun = policy.config.vision.image_size, time.perf_counter()
    indexed = 0

    def done(count: int) -> None:
        nonlocal indexed
        indexed += count
        progress(IndexingProgress(indexed, len(frame_indices), time.perf_counter() - begun))

    groups = frame_groups(reader, frame_indices, (side, side), group or group_size(policy))
    with ahead(groups) as decoded:
        return extend_with(policy, index, decoded, len(frame_indices), done)


def index_video(
    policy: FramePolicy,
    path: str | Path,
    sampling: SamplingConfig,
    *,
    group: int | None = None,
    progress: OnProgress = no_progress,
) -> tuple[Timeline, VideoIndex]:
    """Decode, encode and index a video file in one go.

    Args:
        policy: which reads the frames.
        path: a video file.
        sampling: how many frames to take.
        group: frames that are in work at once; memory grows with it, the result does not depend on it.
        progress: called after each group.

    Returns:
        The candidate frames with their times, and their index.

    Raises:
        VideoError: the file cannot be read as a video, or not to the end.
    """
    with VideoReader(path) as reader:
        timeline = candidate_timeline(reader, sampling)
        index = index_frames(
            policy, policy.start_index(), reader, timeline.frame_indices, group=group, progress=progress
        )
    return timeline, index
