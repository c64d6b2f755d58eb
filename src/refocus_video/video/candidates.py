"""The candidate frames of a video, sampled, scaled and timed."""

from pathlib import Path

from refocus_video.config import SamplingConfig
from refocus_video.types import Candidates
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices

_DEFAULT_SAMPLING = SamplingConfig()


def load_candidates(
    path: str | Path,
    size: tuple[int, int],
    sampling: SamplingConfig = _DEFAULT_SAMPLING,
    threads: int = 1,
) -> Candidates:
    """Sample the candidate frames of a video (METHOD §2).

    Args:
        path: a video file.
        size: (height, width) in pixels of the pictures wanted; the aspect ratio is not kept.
        sampling: how many frames to take.
        threads: decoder threads within one picture.

    Returns:
        F frames with their frame indices and their times in seconds as stored in the file.

    Raises:
        VideoError: the file cannot be read as a video, or not to the end.
    """
    with VideoReader(path, threads) as reader:
        info = reader.info
        indices = candidate_indices(info.num_frames, info.duration_s, sampling.fps, sampling.max_frames)
        return Candidates(
            video=str(path),
            frames=reader.read(indices, size),
            frame_indices=indices,
            times=reader.times[indices],
        )
