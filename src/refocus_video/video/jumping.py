"""Decoding no more of a file than some of its frames need."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from refocus_video.types import IntArray
from refocus_video.video.h264 import Coding, ForeignParametersError, read_coding
from refocus_video.video.standins import stand_ins
from refocus_video.video.table import packets_of

# Codecs in which pictures that nothing refers to can be skipped without touching the others.
_SKIPPING_CODECS = frozenset({"h264", "hevc"})
_AHEAD = 128
"""Packets that are looked at together for what refers to what; so many are in memory."""

Numbered = tuple[int, "Packet[VideoStream]"]


def stretches(starts: IntArray, packets: IntArray) -> list[tuple[int, int]]:
    """The first and the last packet of each part of a file that must be decoded to reach some frames.

    Args:
        starts: (F,) packet at which decoding must begin for each frame, non-decreasing.
        packets: (F,) packet that holds each frame. All that a frame refers to is stored before it.
    """
    found: list[tuple[int, int]] = []
    for start, packet in zip(starts.tolist(), packets.tolist(), strict=True):
        if found and start <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], packet)
        else:
            found.append((start, packet))
    return found


def needed_frames(
    container: InputContainer, stream: VideoStream, packets: IntArray, starts: IntArray
) -> Iterator[av.VideoFrame]:
    """Frames decoded from the keyframe before each wanted one, without pictures that nothing refers to.

    Args:
        container: a file, opened and not yet read from.
        stream: its video.
        packets: (F,) packet that holds each wanted frame.
        starts: (F,) packet at which decoding must begin for each of them, non-decreasing.

    Yields:
        The wanted frames in presentation order, and others between them.
    """
    context = stream.codec_context
    wanted, skipping = set(packets.tolist()), context.name in _SKIPPING_CODECS
    coding = read_coding(context.extradata) if context.name == "h264" else None
    source, at = packets_of(container, stream), 0
    if starts[0] > 0:
        # Some H.264 decoders only learn at the first picture how the file was coded, and give garbage
        # when started further in. So the first one is always decoded before anything is passed over.
        with suppress(av.FFmpegError):
            context.decode(next(source))
            context.decode(None)
        context.flush_buffers()
        at = 1
    for first, last in stretches(starts, packets):
        part = enumerate(islice(source, first - at, last + 1 - at), first)
        for number, packet in part if coding is None else _lighter(part, wanted, coding):
            if skipping:
                context.skip_frame = "DEFAULT" if number in wanted else "NONREF"
            yield from context.decode(packet)
        # The wanted frames that the decoder still holds back come out now, not after more packets.
        yield from context.decode(None)
        context.flush_buffers()
        at = last + 1


def _lighter(part: Iterable[Numbered], wanted: set[int], coding: Coding) -> Iterator[Numbered]:
    """The packets, with stand-ins for pictures that no wanted one needs."""
    packets = iter(part)
    chunk, store = list(islice(packets, _AHEAD)), None
    while chunk:
        following = list(islice(packets, _AHEAD))
        contents = [(number, memoryview(packet)) for number, packet in chunk]
        try:
            light, store = stand_ins(contents, wanted, store, coding, more=bool(following))
        except ForeignParametersError:
            yield from chain(chunk, following, packets)
            return
        for number, packet in chunk:
            yield number, _replaced(packet, light[number]) if number in light else packet
        chunk = following


def _replaced(packet: "Packet[VideoStream]", content: bytes) -> "Packet[VideoStream]":
    other: Packet[Any] = Packet(content)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    return other
