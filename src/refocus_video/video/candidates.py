"""The candidate frames of a video, sampled, scaled and timed: all at once, or group by group."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from refocus_video.config import SamplingConfig
from refocus_video.types import ByteArray, Candidates, IntArray, Timeline
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices

_DEFAULT_SAMPLING = SamplingConfig()


def candidate_timeline(reader: VideoReader, sampling: SamplingConfig = _DEFAULT_SAMPLING) -> Timeline:
    """Which frames of an open video are its candidates (METHOD §2); nothing is decoded."""
    info = reader.info
    indices = candidate_indices(info.num_frames, info.duration_s, sampling.fps, sampling.max_frames)
    return Timeline(info.path, indices, reader.times[indices])


def frame_groups(reader: VideoReader, indices: IntArray, size: tuple[int, int], group: int) -> Iterator[ByteArray]:
    """Pictures of an open video, at most ``group`` at a time, so that memory does not grow with their number.

    Args:
        reader: an open video.
        indices: strictly increasing frame indices.
        size: (height, width) in pixels of the pictures wanted.
        group: pictures at a time.

    Yields:
        (S, height, width, 3) uint8 with S = ``group``, or fewer at the end.

    Raises:
        VideoError: the file cannot be decoded to the end.
    """
    pictures = (picture for _, picture in reader.frames(indices, size))
    while part := list(islice(pictures, group)):
        yield np.stack(part)


def load_candidates(
    path: str | Path,
    size: tuple[int, int],
    sampling: SamplingConfig = _DEFAULT_SAMPLING,
    threads: int = 1,
) -> Candidates:
    """Sample the candidate frames of a video (METHOD §2) and keep all of them in memory.

    Args:
        path: a video file.
        size: (height, width) in pixels of the pictures wanted; the aspect ratio is not kept.
        sampling: how many frames to take.
        threads: decoder threads within one picture.

    Returns:
        F frames with their frame indices and their times in seconds, 0 being where a player begins.

    Raises:
        VideoError: the file cannot be read as a video, or not to the end.
    """
    with VideoReader(path, threads) as reader:
        found = candidate_timeline(reader, sampling)
        return Candidates(str(path), reader.read(found.frame_indices, size), found.frame_indices, found.times)
