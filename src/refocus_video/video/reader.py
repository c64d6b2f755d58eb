"""Exact frames of a video file by frame index, streamed one at a time, with the times stored in the file.

A frame index is the rank of the frame in presentation order. Files are read front to back: packets that no wanted
frame needs are passed over without decoding, so there is no seeking and nothing that a seek could get wrong.

Known limits: damage that still is valid picture data leaves no trace, so it cannot be refused; and a stream format
without a length in its header (MPEG-TS) that was cut between two packets looks complete.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from refocus_video.errors import VideoError
from refocus_video.types import ByteArray, FloatArray, IntArray
from refocus_video.video.jumping import needed_frames
from refocus_video.video.pixels import RgbConverter, displayed_size, frame_orientation
from refocus_video.video.source import REPAIR, check_canvas, first_line, open_stream
from refocus_video.video.table import FrameTable, build_table

MAX_REORDERING = 16
"""No codec lets a picture be shown more than this many pictures later than it is decoded."""
_DAMAGED = "the picture data is damaged"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file holds."""

    path: str
    width: int
    """Of the first frame as shown: after rotation, in stored pixels (a sample aspect ratio is not applied)."""
    height: int
    num_frames: int
    duration_s: float
    """From the first frame's appearance to the last one's end, in seconds."""
    start_s: float
    """Stored time at which a player begins, in seconds: a frame's stored time is this and its time."""
    codec: str
    rotation: int
    """Degrees counter-clockwise (0, 90, 180 or 270) that the file asks for; frames come out already turned."""
    mirrored: bool = False
    """Whether the file asks for a mirror image, before the turn; frames come out already mirrored."""


class _MissingFrameError(Exception):
    """A frame of the table did not come out of the decoder, or came out damaged."""


class VideoReader:
    """Reads frames of a local video file by index; a context manager.

    The video stream that a player would choose is read: the default one, else the best. An image file is a video of one frame.

    Attributes:
        info: what the file holds.
        times: (N,) presentation time of each frame in seconds, non-decreasing; 0 is where a player begins: the
            first need not be 0.

    Raises:
        VideoError: the file is missing, not a video, cut off, damaged, or too large to decode.
    """

    info: VideoInfo
    times: FloatArray

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self._path = Path(path)
        self._threads = threads
        self._closed = False
        height, width, (mirrored, turns), codec = _first_frame(self._path, threads)
        self._table = build_table(self._path, threads)
        base = self._table.time_base
        begin = self._table.start_s / base  # in units of the time base, whole where the file begins with the pictures
        self.times = (self._table.pts - float(begin)) * base.numerator / base.denominator
        self.info = VideoInfo(
            path=str(path),
            width=width,
            height=height,
            num_frames=len(self.times),
            start_s=float(self._table.start_s),
            duration_s=float((self._table.end - int(self._table.pts[0])) * base),
            codec=codec,
            rotation=90 * turns,
            mirrored=mirrored,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reads. Files are open only while frames are being read, so there is nothing to free."""
        self._closed = True

    def frames(
        self, indices: Sequence[int] | IntArray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, ByteArray]]:
        """Yield ``(frame index, picture)`` for each wanted frame, decoding as it goes: memory does not grow.

        Args:
            indices: strictly increasing frame indices in ``0..num_frames-1``.
            size: (height, width) to scale to, as shown; None keeps the size of each frame.

        Yields:
            The index and the RGB picture, (height, width, 3) uint8.

        Raises:
            VideoError: an index is out of range or out of order, or the file does not decode up to it.
        """
        wanted = self._check(indices, size)
        convert = RgbConverter(size)
        for index, frame in self._decode(wanted):
            check_canvas(frame.width, frame.height, self._path)
            yield index, convert(frame)

    def read(self, indices: Sequence[int] | IntArray, size: tuple[int, int] | None = None) -> ByteArray:
        """The wanted frames in one array, (F, height, width, 3) uint8. Arguments and errors as :meth:`frames`.

        Raises:
            VideoError: also when the picture size changes between the frames and no ``size`` is given.
        """
        wanted = self._check(indices, size)
        height, width = size or (self.info.height, self.info.width)
        pictures = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        for row, (index, picture) in enumerate(self.frames(wanted, size)):
            if picture.shape != pictures.shape[1:]:
                raise VideoError(
                    f"{self._path}: frame {index} is {picture.shape[1]}×{picture.shape[0]} and the first frame "
                    f"{width}×{height}; give a size to scale all frames to"
                )
            pictures[row] = picture
        return pictures

    def _check(self, indices: Sequence[int] | IntArray, size: tuple[int, int] | None) -> IntArray:
        if self._closed:
            raise VideoError(f"the reader of {self._path} is closed; open it again to read frames")
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1 or (np.diff(wanted) <= 0).any():
            raise VideoError(f"frame indices must be a strictly increasing list, found {wanted.tolist()}")
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < self.info.num_frames):
            raise VideoError(
                f"{self._path} has frames 0..{self.info.num_frames - 1}, asked for {int(wanted[0])}..{int(wanted[-1])}"
            )
        if size is not None:
            check_canvas(size[1], size[0], self._path)
        return wanted

    def _decode(self, wanted: IntArray) -> Iterator[tuple[int, av.VideoFrame]]:
        if len(wanted) == 0:
            return
        done, reason = 0, ""
        jumping = (_decode_jumping, _decode_skipping, _decode_from_start)
        for decode in (_decode_all,) if self._table.starts is None else jumping:
            strict = decode in (_decode_jumping, _decode_skipping)
            with open_stream(self._path, self._threads, strict) as (container, stream):
                try:
                    for frame in decode(container, stream, self._table, wanted[done:]):
                        yield int(wanted[done]), frame
                        done += 1
                    return
                except _MissingFrameError as error:
                    reason = str(error)
                except av.FFmpegError as error:
                    reason = first_line(error)
            # The next way of decoding is slower and more tolerant; it begins at the frame that did not come.
        raise self._unreadable(int(wanted[done]), reason)

    def _unreadable(self, index: int, reason: str) -> VideoError:
        return VideoError(
            f"{self._path}: frame {index} of {self.info.num_frames} at {self.times[index]:.3f} s "
            f"cannot be decoded ({reason}); {REPAIR}"
        )


def _first_frame(path: Path, threads: int) -> tuple[int, int, tuple[bool, int], str]:
    """Height, width, orientation and codec of the first frame that decodes."""
    with open_stream(path, threads) as (container, stream):
        try:
            for frame in container.decode(stream):
                return *displayed_size(frame), frame_orientation(frame), stream.codec_context.codec.name
        except av.FFmpegError as error:
            raise VideoError(f"{path}: not one frame can be decoded ({first_line(error)}); {REPAIR}") from None
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from None
        promise = f" of the {stream.frames} its index promises" if stream.frames else ""
    raise VideoError(f"{path} opens as a video, but gives no frame{promise}; fetch it again, or {REPAIR}")


def _soundness(frames: Iterator[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, bool]]:
    """Each frame, and whether it is free of damage that the decoder noticed.

    The decoder marks the frame it patched up, not the frames made from it. Those are all frames from there to
    the next keyframe, and the few shown before it that were decoded after it: so each frame is held back a little.
    """
    held: deque[tuple[av.VideoFrame, bool]] = deque()
    sound = True
    for frame in frames:
        if frame.is_corrupt:
            sound = False
            last_key = max((k for k, (f, _) in enumerate(held) if f.key_frame), default=-1)
            for k in range(last_key + 1, len(held)):
                held[k] = held[k][0], False
        elif frame.key_frame:
            sound = True
        held.append((frame, sound))
        if len(held) > MAX_REORDERING:
            yield held.popleft()
    yield from held


def _match(frames: Iterator[tuple[av.VideoFrame, bool]], wanted: IntArray) -> Iterator[av.VideoFrame]:
    """Pick the frames with the wanted times out of a stream in presentation order."""
    row = 0
    for frame, sound in frames:
        if frame.pts is None or frame.pts > wanted[row]:
            break
        if frame.pts == wanted[row]:
            if not sound:
                raise _MissingFrameError(_DAMAGED)
            yield frame
            row += 1
            if row == len(wanted):
                return
    raise _MissingFrameError("the decoder gives no picture for it")


def _decode_all(
    container: InputContainer, stream: VideoStream, table: FrameTable, wanted: IntArray
) -> Iterator[av.VideoFrame]:
    """Decode everything and count: frame index is the number of frames before it."""
    row = 0
    for index, (frame, sound) in enumerate(_soundness(container.decode(stream))):
        if index == wanted[row]:
            if not sound:
                raise _MissingFrameError(_DAMAGED)
            yield frame
            row += 1
            if row == len(wanted):
                return
    raise _MissingFrameError("the decoder gives no picture for it")


def _decode_from_start(
    container: InputContainer, stream: VideoStream, table: FrameTable, wanted: IntArray
) -> Iterator[av.VideoFrame]:
    """Decode everything and match by time."""
    return _match(_soundness(container.decode(stream)), table.pts[wanted])


def _decode_jumping(
    container: InputContainer, stream: VideoStream, table: FrameTable, wanted: IntArray
) -> Iterator[av.VideoFrame]:
    """Decode only what the wanted frames need, and match by time."""
    assert table.starts is not None
    return _decode_needed(container, stream, table, wanted, table.starts[wanted])


def _decode_skipping(
    container: InputContainer, stream: VideoStream, table: FrameTable, wanted: IntArray
) -> Iterator[av.VideoFrame]:
    """The same without jumps: not every keyframe is one that a decoder can begin at without complaint."""
    return _decode_needed(container, stream, table, wanted, np.zeros_like(wanted))


def _decode_needed(
    container: InputContainer, stream: VideoStream, table: FrameTable, wanted: IntArray, starts: IntArray
) -> Iterator[av.VideoFrame]:
    assert table.packets is not None
    frames = needed_frames(container, stream, table.packets[wanted], starts)
    return _match(((frame, not frame.is_corrupt) for frame in frames), table.pts[wanted])
