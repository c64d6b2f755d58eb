"""Index arithmetic for sampling frames: which frames become candidates, and which candidates are evenly spread."""

import numpy as np

from refocus_video.errors import VideoError, check_budget
from refocus_video.types import FloatArray, IntArray


def candidate_indices(num_frames: int, duration_s: float, fps: float = 4.0, max_frames: int | None = 512) -> IntArray:
    """Frame indices of the candidates, evenly spread from the first frame to the last (METHOD §2).

    The count is ``min(max_frames, max(1, int(duration_s * fps)))`` and the indices are
    ``linspace(0, num_frames - 1, count)`` cut to whole numbers. Without a limit the first term is left out.

    One difference from the paper's code: the count never exceeds ``num_frames``. There, a video with fewer
    frames than candidates gives some frames twice; here every index is given once.

    Args:
        num_frames: frames in the video, at least 1.
        duration_s: length of the video in seconds.
        fps: candidates per second.
        max_frames: the most candidates to take; None or 0 for no limit.

    Returns:
        Strictly increasing frame indices, (F,) int64.

    Raises:
        VideoError: the video has no frame, or an impossible duration.
    """
    if num_frames < 1:
        raise VideoError(f"candidates need a video of at least 1 frame, found {num_frames}")
    if not (np.isfinite(duration_s) and duration_s >= 0):
        raise VideoError(f"a duration must be a number of seconds from 0 up, found {duration_s}")
    count = min(max_frames or num_frames, max(1, int(duration_s * fps)), num_frames)
    return np.linspace(0, num_frames - 1, count).astype(np.int64)


def clock_indices(times: FloatArray, fps: float = 4.0) -> IntArray:
    """Frame indices of the candidates of a video that still grows: the first frame of each ``1 / fps`` seconds.

    Unlike :func:`candidate_indices` the choice does not depend on what follows, so further frames only add to it.

    Args:
        times: presentation time of each frame in seconds, (N,), non-decreasing.
        fps: candidates per second.

    Returns:
        Strictly increasing frame indices, (F,) int64.
    """
    ticks = np.floor((times - times[:1]) * fps + 1e-6)  # a time that is exact on paper may be a hair below its tick
    return np.unique(ticks, return_index=True)[1].astype(np.int64)


def uniform_positions(num_candidates: int, budget: int) -> IntArray:
    """Positions of ``budget`` candidates, one in the middle of each of ``budget`` equal stretches of the pool.

    Returns:
        Strictly increasing positions, (budget,) int64.

    Raises:
        BudgetError: ``budget`` is not in ``1..num_candidates``.
    """
    check_budget(budget, num_candidates)
    # floor((2k + 1) F / 2K), in whole numbers so that no rounding error can repeat a position.
    return (2 * np.arange(budget, dtype=np.int64) + 1) * num_candidates // (2 * budget)
