"""Positions of visual tokens in three dimensions (time, row, column), as the Qwen-VL families rotate by them. Pure.

The model's own function spaces all frames of a video evenly. Chosen frames are not evenly spaced, so the first of the three
positions is computed here from the true time of each frame; for evenly spaced frames the numbers are the model's own (tested).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-4
"""A time such as 0.3 s · 10 / s must not fall below 3 by rounding."""


def mrope_positions(visual: Tensor, grid: tuple[int, int], seconds: Sequence[float], per_second: float) -> Tensor:
    """Positions of one row of tokens.

    Args:
        visual: which tokens are visual, (L,) bool; runs of them hold whole frames.
        grid: rows and columns of visual tokens in a frame.
        seconds: time of each frame in seconds, (K,).
        per_second: time positions a second; 0 where time is told otherwise.

    Returns:
        Time, row and column position of each token, (3, L) int64.
    """
    rows, columns = grid
    runs, lengths = torch.unique_consecutive(visual, return_counts=True)
    down = torch.arange(rows).repeat_interleave(columns)
    across = torch.arange(columns).repeat(rows)
    parts, start, used = [], 0, 0
    for is_visual, length in zip(runs.tolist(), lengths.tolist(), strict=True):
        if not is_visual:
            parts.append((torch.arange(length) + start).expand(3, -1))
            start += length
            continue
        frames = length // (rows * columns)
        ticks = [int(s * per_second + _EPSILON) for s in seconds[used : used + frames]]
        time = torch.tensor(ticks).repeat_interleave(rows * columns)
        parts.append(torch.stack((time, down.repeat(frames), across.repeat(frames))) + start)
        start += max(rows, columns)
        used += frames
    return torch.cat(parts, dim=1)
