"""Pixels as vision towers want them: normalised, and cut into patches where the tower takes patches. Pure.

The official video processors need torchvision; these few lines do not, and give the same numbers (tests compare them).

Dimensions: F frames · gh, gw patches along a side · s pixels along a side of a patch · m patches along a side of a visual token.
"""

import math

import torch
from torch import Tensor

from refocus_video.types import ByteArray


def normalised(frames: ByteArray, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """RGB frames (F, H, W, 3) uint8 scaled to 0..1, shifted and divided: (F, 3, H, W) float32."""
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 255
    centre, spread = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    return (pixels - centre) / spread


def patches(pixels: Tensor, size: int, merge: int, repeat: int) -> Tensor:
    """Patches of frames (F, 3, H, W), those of one visual token next to each other: (F, gh·gw, 3·repeat·size²).

    ``repeat`` is the frames in a temporal patch: each frame stands for all of them.
    """
    frames, channels, height, width = pixels.shape
    gh, gw = height // size, width // size
    cut = pixels.reshape(frames, channels, gh // merge, merge, size, gw // merge, merge, size)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (F, gh/m, gw/m, m, m, 3, s, s)
    cut = cut[:, :, :, :, :, :, None].expand(*cut.shape[:6], repeat, size, size)
    return cut.reshape(frames, gh * gw, channels * repeat * size * size)


def size_within(shape: tuple[int, int], step: int, most: int) -> tuple[int, int]:
    """Height and width near the given shape's ratio, multiples of ``step``, with at most ``most`` pixels (one step at least)."""
    height, width = shape
    shrink = min(1.0, math.sqrt(most / (height * width)))
    rounded = [max(step, round(side * shrink / step) * step) for side in (height, width)]
    if rounded[0] * rounded[1] > most:
        rounded = [max(step, math.floor(side * shrink / step) * step) for side in (height, width)]
    return rounded[0], rounded[1]
