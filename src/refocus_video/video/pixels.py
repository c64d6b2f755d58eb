"""From a decoded frame to an RGB array: colours, scaling and rotation as the file asks for them."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from refocus_video.errors import VideoError
from refocus_video.types import ByteArray

# The scaler's default repeats colour samples instead of interpolating them, which shifts colours by several
# levels. With these flags one step from the decoded frame agrees with RGB first, antialiased bicubic after.
_QUALITY = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


def quarter_turns(rotation: int) -> int:
    """Counter-clockwise quarter turns (0..3) for a rotation in degrees.

    Raises:
        VideoError: the rotation is not a multiple of 90 degrees.
    """
    if rotation % 90:
        raise VideoError(f"the file asks for a rotation by {rotation}°; only multiples of 90° are shown exactly")
    return rotation // 90 % 4


class RgbConverter:
    """Turns decoded frames into RGB arrays; keeps the scaler between frames."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._size = size
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> ByteArray:
        """The frame as shown, (height, width, 3) uint8, contiguous, at the converter's size or its own.

        Raises:
            VideoError: the rotation is not a multiple of 90 degrees, or the pixels cannot be converted.
        """
        turns = quarter_turns(frame.rotation)
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
        return np.ascontiguousarray(np.rot90(pixels, turns))


def scaled(pictures: ByteArray, size: tuple[int, int]) -> ByteArray:
    """RGB pictures (N, H, W, 3) uint8 at another (height, width), by the same filter as decoded frames."""
    if pictures.shape[1:3] == size or not len(pictures):
        return pictures
    convert = RgbConverter(size)
    return np.stack([convert(av.VideoFrame.from_ndarray(picture, format="rgb24")) for picture in pictures])


def displayed_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width of a frame after its rotation, in pixels."""
    if quarter_turns(frame.rotation) % 2:
        return frame.width, frame.height
    return frame.height, frame.width
