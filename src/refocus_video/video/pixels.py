"""From a decoded frame to an RGB array: colours, scaling, mirroring and rotation as the file asks for them."""

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from refocus_video.errors import VideoError
from refocus_video.types import ByteArray, IntArray

# The scaler's default repeats colour samples instead of interpolating them, which shifts colours by several
# levels. With these flags one step from the decoded frame agrees with RGB first, antialiased bicubic after.
_QUALITY = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


_NEAREST = 0.985
"""Cosine of 10°: a display matrix that is no nearer to a quarter turn or mirror image cannot be shown without resampling."""
_UPRIGHT = (False, 0)
_TURNS = {(1, 0): 0, (0, 1): 1, (-1, 0): 2, (0, -1): 3}


def orientation(matrix: IntArray | None) -> tuple[bool, int]:
    """How stored pictures become shown ones: mirrored left to right first, then turned.

    Args:
        matrix: the display matrix as stored, (9,) or (3, 3) in 16.16 fixed point: a stored point (x, y), y downwards, is shown at
            (a x + c y, b x + d y). None, or all zeros in its first two columns (as some writers leave it), is upright.

    Returns:
        Whether to mirror, and the counter-clockwise quarter turns (0..3) after that, of the symmetry of the square that is
        nearest to the matrix.

    Raises:
        VideoError: none of the eight is within 10°.
    """
    if matrix is None:
        return _UPRIGHT
    (a, b), (c, d) = matrix.reshape(3, 3)[:2, :2].astype(np.float64)
    length = np.hypot(np.hypot(a, b), np.hypot(c, d)) / np.sqrt(2)
    if length == 0:
        return _UPRIGHT
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    # What is left is a turn: it sends the x axis to (a, b) and the y axis to (c, d).
    cosine, sine = (a + d) / 2 / length, (c - b) / 2 / length
    if max(abs(cosine), abs(sine)) < _NEAREST:
        angle = np.degrees(np.arctan2(sine, cosine))
        raise VideoError(f"the file asks for a rotation by {angle:.0f}°; only multiples of 90° are shown exactly")
    return bool(mirrored), _TURNS[round(cosine), round(sine)]


def frame_orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """:func:`orientation` of a decoded frame."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")  # a buffer, which its type does not say
    return orientation(None if data is None else np.frombuffer(data, dtype=np.int32))


class RgbConverter:
    """Turns decoded frames into RGB arrays; keeps the scaler between frames."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._size = size
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> ByteArray:
        """The frame as shown, (height, width, 3) uint8, contiguous, at the converter's size or its own.

        Raises:
            VideoError: the rotation is nowhere near a multiple of 90 degrees, or the pixels cannot be converted.
        """
        mirrored, turns = frame_orientation(frame)
        height, width = self._size or displayed_size(frame)
        if turns % 2:
            height, width = width, height
        try:
            rgb = self._scaler.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=_QUALITY, threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"pixels of format {frame.format.name} cannot be turned into RGB ({error})") from None
        pixels = np.asarray(rgb.to_ndarray(), dtype=np.uint8)
        return np.ascontiguousarray(np.rot90(np.fliplr(pixels) if mirrored else pixels, turns))


def scaled(pictures: ByteArray, size: tuple[int, int]) -> ByteArray:
    """RGB pictures (N, H, W, 3) uint8 at another (height, width), by the same filter as decoded frames."""
    if pictures.shape[1:3] == size or not len(pictures):
        return pictures
    convert = RgbConverter(size)
    return np.stack([convert(av.VideoFrame.from_ndarray(picture, format="rgb24")) for picture in pictures])


def displayed_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame after its rotation, in pixels."""
    if frame_orientation(frame)[1] % 2:
        return frame.width, frame.height
    return frame.height, frame.width
