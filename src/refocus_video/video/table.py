"""The table of a video's frames: when each is shown, and where decoding must begin to reach it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from refocus_video.errors import VideoError
from refocus_video.types import IntArray
from refocus_video.video.source import REPAIR, first_line, open_stream

JUMPING_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d"})
"""Codecs in which one packet holds exactly one shown picture, unless the packet itself says otherwise."""

TIMED_FORMATS = ("mp4", "matroska", "mpegts", "flv")
"""Containers that store a presentation time with every packet. Others (AVI) store the order of decoding only."""


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Every frame of a video in presentation order."""

    pts: IntArray
    """Presentation time of each frame in units of ``time_base``, (N,), non-decreasing."""
    starts: IntArray | None
    """Number of the packet at which decoding can begin to reach each frame, (N,); None where frames can only be
    reached by decoding from the beginning, because the packets do not tell which of them give a picture."""
    packets: IntArray | None
    """Number of the packet that holds each frame, (N,); None where ``starts`` is."""
    time_base: Fraction
    end: int
    """When the last frame stops being shown, in units of ``time_base``."""
    start_s: Fraction = Fraction(0)
    """When the file begins for a player, in seconds as stored: its streams' earliest time."""


@dataclass(frozen=True, slots=True)
class _Packets:
    pts: list[int | None]
    dts: list[int | None]
    keyframe: list[bool]
    shown: list[bool]
    duration: list[int]
    hidden: bool
    damaged: int


def hides_picture(codec: str, data: memoryview) -> bool:
    """Whether a packet carries a picture that is kept for reference and never shown."""
    if len(data) == 0:
        return True
    if codec == "vp8":
        return not data[0] & 0x10
    if codec == "vp9":
        if data[-1] & 0xE0 == 0xC0:  # a superframe: several pictures, the last one shown
            return False
        profile = (data[0] >> 5 & 1) | (data[0] >> 3 & 2)
        shift = 2 if profile == 3 else 3
        show_existing, show = data[0] >> shift & 1, data[0] >> (shift - 2) & 1
        return not show_existing and not show
    return False


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator["Packet[VideoStream]"]:
    """The packets of a stream in stored order: a packet's number is its rank here."""
    for packet in container.demux(stream):
        # The demuxer ends with an empty packet that only tells the decoder to finish.
        if packet.size > 0 or packet.pts is not None or packet.dts is not None:
            yield packet


def _scan(container: InputContainer, stream: VideoStream, path: Path) -> _Packets:
    found = _Packets([], [], [], [], [], False, 0)
    hidden, damaged, codec = False, 0, stream.codec_context.name
    try:
        for packet in packets_of(container, stream):
            found.pts.append(packet.pts)
            found.dts.append(packet.dts)
            found.keyframe.append(packet.is_keyframe)
            # Packets marked "discard" lie outside the file's edit list: decoded for reference, never shown.
            found.shown.append(not packet.is_discard)
            found.duration.append(packet.duration or 0)
            damaged += packet.is_corrupt
            # Where the coding changes midway, a decoder that passed over the change could not go on.
            hidden = hidden or hides_picture(codec, memoryview(packet)) or packet.has_sidedata("new_extradata")
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: reading stops after {len(found.pts)} packets ({first_line(error)}); {REPAIR}"
        ) from None
    return replace(found, hidden=hidden, damaged=damaged)


def _check_complete(packets: _Packets, promised: int, path: Path) -> None:
    count = len(packets.pts)
    if count == 0:
        promise = f"none of the {promised} frames its index promises" if promised else "no frame at all"
        raise VideoError(f"{path} holds {promise}; the picture data is missing, fetch the file again")
    if count < promised:
        raise VideoError(
            f"{path} is cut off: it holds {count} of the {promised} frames its index promises; "
            f"fetch it again, or {REPAIR}"
        )
    if packets.damaged:
        raise VideoError(
            f"{path} is damaged: {packets.damaged} of its {count} packets are incomplete; fetch it again, or {REPAIR}"
        )


def _table_from_packets(packets: _Packets, time_base: Fraction) -> FrameTable | None:
    """The frame table, when the packets alone tell which frames there are; None when they do not."""
    known = [pts for pts in packets.pts if pts is not None]
    if packets.hidden or len(known) < len(packets.pts) or len(set(known)) < len(known):
        return None
    pts = np.array(known, dtype=np.int64)
    keys = np.flatnonzero(packets.keyframe)
    # Pictures before the first keyframe, in either order, may have lost what they refer to.
    if len(keys) == 0 or keys[0] != 0 or (pts < pts[0]).any():
        return None
    shown = np.flatnonzero(packets.shown)
    if len(shown) == 0:
        return None
    order = shown[np.argsort(pts[shown])]
    last = int(order[-1])
    span = packets.duration[last] or _usual_step(pts[order])
    return FrameTable(pts[order], _starts(pts, keys, order), order, time_base, int(pts[last]) + span)


def _usual_step(pts: IntArray) -> int:
    """How long a frame is shown, where the file does not say: the median step, 0 for a single frame."""
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0


def _starts(pts: IntArray, keys: IntArray, order: IntArray) -> IntArray:
    """The last keyframe that is neither stored nor shown after the frame, for each frame in ``order``.

    A frame stored after a keyframe but shown before it may refer to pictures before that keyframe.
    """
    key_pts = np.maximum.accumulate(pts[keys])  # a keyframe counts once all keyframes before it are shown
    rank = np.minimum(np.searchsorted(keys, order, side="right"), np.searchsorted(key_pts, pts[order], side="right"))
    starts = keys[np.maximum(rank - 1, 0)]
    # Frames are decoded in one pass: a frame's start must not lie behind that of a later frame.
    return np.asarray(np.minimum.accumulate(starts[::-1])[::-1], dtype=np.int64)


def _rises(values: list[int | None]) -> bool:
    known = [value for value in values if value is not None]
    return len(known) == len(values) and all(a <= b for a, b in pairwise(known))


def _shown_times(frames: list[int | None], packets: _Packets, path: Path) -> IntArray:
    """Presentation time of each decoded frame.

    A container that stores no presentation times has one decoding time per packet: one frame leaves the
    decoder at each of them, so the k-th frame shown has the k-th of these times.
    """
    if _rises(frames):
        return np.array(frames, dtype=np.int64)
    if len(packets.dts) == len(frames) and _rises(packets.dts):
        return np.array(packets.dts, dtype=np.int64)
    if None in frames:
        raise VideoError(
            f"{path}: frame {frames.index(None)} has no presentation time; put the video into a container "
            "that stores times: ffmpeg -i INPUT -c copy OUTPUT.mp4"
        )
    back = next(k for k, (a, b) in enumerate(pairwise(frames), 1) if a is not None and b is not None and b < a)
    raise VideoError(f"{path}: presentation times run backwards at frame {back}; {REPAIR}")


def _table_by_decoding(path: Path, threads: int, packets: _Packets) -> FrameTable:
    """Count the frames by decoding them all."""
    times: list[int | None] = []
    span = 0
    promise = f"of the {len(packets.pts)} frames its index promises"
    with open_stream(path, threads) as (container, stream):
        time_base = stream.time_base or Fraction(1, 1)
        try:
            for frame in container.decode(stream):
                times.append(frame.pts)
                span = int(frame.duration or 0)
        except av.FFmpegError as error:
            raise VideoError(
                f"{path} is damaged: decoded {len(times)} {promise} ({first_line(error)}); {REPAIR}"
            ) from None
    if not times:
        raise VideoError(f"{path}: decoded none {promise}; {REPAIR}")
    shown = _shown_times(times, packets, path)
    return FrameTable(shown, None, None, time_base, int(shown[-1]) + (span or _usual_step(shown)))


def build_table(path: Path, threads: int = 1) -> FrameTable:
    """Read the frame table of a video: one pass over its packets, or one full decode where that is not enough.

    Raises:
        VideoError: the file is cut off, damaged, holds no frames, or stores no usable times.
    """
    with open_stream(path, threads) as (container, stream):
        packets = _scan(container, stream, path)
        form = container.format.name
        # Only the MP4 family lists every frame in its header; elsewhere the list is just the keyframes.
        promised = len(stream.index_entries) if "mp4" in form else 0
        codec, time_base = stream.codec_context.name, stream.time_base or Fraction(1, 1)
        start = _start(container, stream)
    _check_complete(packets, promised, path)
    if codec in JUMPING_CODECS and any(name in form for name in TIMED_FORMATS):
        table = _table_from_packets(packets, time_base)
        if table is not None:
            return replace(table, start_s=start)
    return replace(_table_by_decoding(path, threads, packets), start_s=start)


def _start(container: InputContainer, stream: VideoStream) -> Fraction:
    """When the file begins for a player; a stream that begins later, such as delayed pictures, keeps its delay."""
    begin = cast("int | None", container.start_time)  # its type leaves out that it may be unknown
    if begin is None:
        return Fraction(0)
    start = Fraction(begin, av.time_base)
    if stream.start_time is None or stream.time_base is None:
        return start
    own = stream.start_time * stream.time_base
    # The container's time is rounded to microseconds: the stream's own is exact.
    return own if abs(own - start) <= Fraction(1, av.time_base) else start
