"""Small videos for tests: each frame carries its own number as a barcode in the pixels."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream

from refocus_video.types import ByteArray

WIDTH, HEIGHT, BITS = 96, 64, 12
SHARED = Path(__file__).parents[2] / "shared" / "data"


def barcode(number: int, width: int = WIDTH, height: int = HEIGHT) -> ByteArray:
    """A picture with ``number`` as 12 black or white bars in its upper half and a moving dot below."""
    picture = np.full((height, width, 3), 90, dtype=np.uint8)
    bar = width // BITS
    for bit in range(BITS):
        picture[: height // 2, bit * bar : (bit + 1) * bar] = 235 if number >> bit & 1 else 16
    column = number * 5 % (width - 8)
    picture[height // 2 + 8 : height // 2 + 16, column : column + 8] = (200, 40, 40)
    return picture


def number_of(picture: ByteArray) -> int:
    """The number that :func:`barcode` drew, at any picture size."""
    height, width = picture.shape[:2]
    row = picture[height // 8 : 3 * height // 8].mean(axis=(0, 2))
    centres = (np.arange(BITS) + 0.5) * (width / BITS)
    return sum(1 << bit for bit, x in enumerate(centres) if row[int(x)] > 125)


def write_clip(
    path: Path,
    pts: list[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    setup: Callable[[VideoStream], None] | None = None,
    container_options: dict[str, str] | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """Encode one barcode frame for each presentation time."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        if setup is not None:
            setup(stream)
        for number, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(barcode(number, size[1], size[0]), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_in_order(path: Path) -> Iterator[av.VideoFrame]:
    """Plain sequential decode of the first video stream: what every other way of reading must agree with."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        yield from container.decode(stream)
