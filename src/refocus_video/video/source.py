"""Opening a file as a video: the picture stream, its limits, and every failure as one clear line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from refocus_video.errors import VideoError

MAX_PIXELS = 8192 * 8192
"""The largest picture that is decoded, in pixels. A few bytes can promise a picture of gigabytes."""

REPAIR = "make a clean copy with: ffmpeg -i INPUT -c:v libx264 -crf 16 OUTPUT.mp4"
"""What to do about a file that a tolerant player may still show in part."""


def first_line(error: Exception) -> str:
    """The reason given by the decoding library, without its number and file name."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


def check_file(path: Path) -> None:
    """Raise :class:`VideoError` unless a path is a regular file with something in it."""
    if not path.exists():
        raise VideoError(f"no video file at {path}")
    if path.is_dir():
        raise VideoError(f"{path} is a folder, not a video file; give the path of one file")
    if not path.is_file():
        raise VideoError(f"{path} is not a regular file; give the path of a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes); fetch it again")


def _ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """A Matroska length field and where it ends; all value bits set (-1 here) means that the length is unknown."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), at + length


def promised_bytes(head: bytes) -> int | None:
    """The file size that a Matroska, WebM or AVI header promises, from the first bytes of the file."""
    if head[:4] == b"RIFF" and len(head) >= 8:
        content = int.from_bytes(head[4:8], "little")
        return 8 + content if 0 < content < 0xFFFFFFFF else None  # both ends mean "not known when written"
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    try:
        header, at = _ebml_number(head, 4)
        at += header
        if head[at : at + 4] != b"\x18\x53\x80\x67":
            return None
        content, at = _ebml_number(head, at + 4)
    except IndexError:
        return None
    return at + content if content >= 0 else None


def _check_length(path: Path) -> None:
    """Refuse a file shorter than its header says: the decoder would just end early."""
    with path.open("rb") as file:
        promised = promised_bytes(file.read(4096))
    found = path.stat().st_size
    if promised is not None and found < promised:
        raise VideoError(
            f"{path} is cut off: it has {found} of the {promised} bytes its header promises; "
            f"fetch it again, or {REPAIR}"
        )


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    # The cover of an audio file is stored as a picture stream of its own: it is no video.
    films = [s for s in container.streams.video if not int(s.disposition) & int(av.stream.Disposition.attached_pic)]
    if films:
        best = container.streams.best("video")
        default = (film for film in films if int(film.disposition) & int(av.stream.Disposition.default))
        return next(default, None) or next((film for film in films if best and film.index == best.index), films[0])
    kinds = sorted({str(stream.type) for stream in container.streams})
    found = f"only {', '.join(kinds)}" if kinds else "and nothing else"
    raise VideoError(f"{path} has no video in it, {found}; give a file with pictures")


def check_canvas(width: int, height: int, path: Path) -> None:
    """Refuse a picture without pixels or with more than :data:`MAX_PIXELS` of them."""
    if width < 1 or height < 1:
        raise VideoError(f"{path}: the pictures have no usable size ({width}×{height}); {REPAIR}")
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: pictures of {width}×{height} are refused, the limit is {MAX_PIXELS} pixels; "
            "make a smaller copy first"
        )


@contextmanager
def open_stream(path: Path, threads: int = 1, strict: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the video stream of a local file that a player would choose.

    Args:
        path: a regular file. Only files are read: a playlist that points to a network address is refused.
        threads: decoder threads within one picture. Threads across pictures are never used: on damaged
            input they can wait for each other forever.
        strict: make the decoder fail on damaged data instead of patching it up.

    Raises:
        VideoError: the file is missing, empty, not a video, has no pictures, or pictures too large.
    """
    check_file(path)
    _check_length(path)
    try:
        container = av.open(
            str(path.absolute()),
            mode="r",
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file"},
        )
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path} cannot be opened as a video ({first_line(error)}); check that it is a complete video file"
        ) from None
    with container:
        stream = _picture_stream(container, path)
        context = stream.codec_context
        if context is None:
            raise VideoError(f"{path}: no decoder is known for its video; {REPAIR}")
        check_canvas(context.width, context.height, path)
        context.options = {"max_pixels": str(MAX_PIXELS)} | ({"err_detect": "explode"} if strict else {})
        context.thread_type = "SLICE"
        context.thread_count = threads
        yield container, stream
