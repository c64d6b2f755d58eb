"""Stand-ins for H.264 pictures that no wanted one needs: many ways of coding, each wanted frame equal bit for bit."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from refocus_video.types import ByteArray, IntArray
from refocus_video.video import jumping
from refocus_video.video.h264 import B_SLICE, P_SLICE, Coding, ForeignParametersError, Slice, read_coding, units_of
from refocus_video.video.reader import VideoReader
from refocus_video.video.source import open_stream
from refocus_video.video.standins import Reference, Store, full_order, reference_lists, stand_ins
from refocus_video.video.table import build_table, packets_of
from video_clips import decode_in_order

HEIGHT, WIDTH, FRAMES = 64, 112, 100


def pictures() -> list[ByteArray]:
    """Texture that drifts, with grain, cuts and fades: hardly a block is as in the picture before."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (60, 80, 3)).repeat(6, axis=0).repeat(6, axis=1)
    found = []
    for k in range(FRAMES):
        y, x = (k // 40 * 53 + k) % 200, (k // 40 * 91 + 2 * k) % 300
        fade = 1 - max(0, k % 60 - 44) / 16
        grain = random.integers(-8, 9, (HEIGHT, WIDTH, 3))
        found.append(np.clip(coarse[y : y + HEIGHT, x : x + WIDTH] * fade + grain, 0, 255).astype(np.uint8))
    return found


PICTURES = pictures()
PLAIN = "keyint=24:bframes=3:b-adapt=0:b-pyramid=normal:ref=1:slices=1:open-gop=0:interlaced=0"


def encode(path: Path, settings: str, pixels: str = "yuv420p", codec: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "x264-params": f"{PLAIN}:{settings}"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(PICTURES):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def planes(frame: av.VideoFrame) -> bytes:
    return bytes(frame.to_ndarray().tobytes())


def needed(path: Path, wanted: IntArray, jump: bool) -> dict[int, bytes]:
    """Content of the decoded frames by presentation time, without any second way of reading."""
    table = build_table(path)
    assert table.packets is not None
    assert table.starts is not None
    starts = table.starts[wanted] if jump else np.zeros_like(wanted)
    with open_stream(path, strict=True) as (container, stream):
        found = jumping.needed_frames(container, stream, table.packets[wanted], starts)
        return {frame.pts: planes(frame) for frame in found if frame.pts is not None}


# What is coded how, whether pictures can be replaced (with several references each may need all before it), and whether
# decoding can begin at each keyframe without complaint.
WAYS = [
    ("", True, True),
    ("cabac=0", True, True),
    ("b-pyramid=strict", True, True),
    ("b-pyramid=none", False, True),
    ("bframes=0", False, True),
    ("bframes=8:b-adapt=2:ref=2:keyint=250", False, True),
    ("ref=4:b-adapt=1:mbtree=1", False, True),
    ("ref=16:bframes=5:keyint=infinite", False, True),
    ("weightp=2:weightb=1:direct=temporal", True, True),
    ("slices=4:direct=auto", True, True),
    ("repeat-headers=1:aud=1", True, True),
    ("keyint=infinite:scenecut=40", True, True),
    ("open-gop=1", True, False),
    ("intra-refresh=1", True, False),
    ("interlaced=1", False, True),
]


@pytest.mark.parametrize(("settings", "replaced", "jumps"), WAYS, ids=str)
@pytest.mark.parametrize("ahead", [7, 128])
def test_wanted_frames_do_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, replaced: bool, jumps: bool, ahead: int
) -> None:
    path = encode(tmp_path / "clip.mp4", settings)
    truth = [planes(frame) for frame in decode_in_order(path)]
    count = 0

    def counted(*given: Any, **named: Any) -> tuple[dict[int, bytes], Store | None]:
        nonlocal count
        found, store = stand_ins(*given, **named)
        count += len(found)
        return found, store

    monkeypatch.setattr(jumping, "_AHEAD", ahead)
    monkeypatch.setattr(jumping, "stand_ins", counted)
    times = build_table(path).pts
    for wanted in (np.arange(3, FRAMES, 29), np.arange(FRAMES - 1, FRAMES), np.array([20, 21, 22, 60, 71, 72])):
        found = needed(path, wanted, jumps)
        assert [found[times[k]] == truth[k] for k in wanted] == [True] * len(wanted)
    assert (count > 0) == replaced


@pytest.mark.parametrize("pixels", ["yuv422p", "yuv444p", "gray", "yuv420p10le"])
@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts"])
def test_other_pixels_and_containers(tmp_path: Path, pixels: str, name: str) -> None:
    path = encode(tmp_path / name, "", pixels)
    truth = {frame.pts: planes(frame) for frame in decode_in_order(path)}
    table = build_table(path)
    for wanted in (np.array([99]), np.array([5, 30, 71])):
        found = needed(path, wanted, jump=True)
        assert all(found[time] == truth[time] for time in table.pts[wanted].tolist())


@pytest.mark.parametrize("settings", ["open-gop=1", "intra-refresh=1"])
def test_a_keyframe_that_cannot_be_begun_at_is_no_loss(tmp_path: Path, settings: str) -> None:
    path = encode(tmp_path / "clip.mp4", settings)
    with VideoReader(path) as reader:
        every, some = reader.read(range(FRAMES)), [3, 50, 98]
        np.testing.assert_array_equal(reader.read(some), every[some])


def coded(path: Path) -> tuple[bytes, list[tuple[int, memoryview]]]:
    with open_stream(path) as (container, stream):
        packets = [(k, memoryview(bytes(packet))) for k, packet in enumerate(packets_of(container, stream))]
        return stream.codec_context.extradata or b"", packets


def test_what_is_not_understood_is_decoded(tmp_path: Path) -> None:
    header, packets = coded(encode(tmp_path / "clip.mp4", "keyint=infinite:scenecut=0"))
    coding = read_coding(header)
    assert coding is not None
    whole, store = stand_ins(packets, {99}, None, coding, more=False)
    assert len(whole) > 10
    assert store is not None
    assert 99 not in whole
    # A cut packet hides what follows it until the next fresh start, and what it may refer to stays.
    cut = [(k, data[:-1] if k == 40 else data) for k, data in packets]
    part, store = stand_ins(cut, {99}, None, coding, more=False)
    assert store is None
    assert set(part) < set(whole)
    assert all(k < 40 for k in part)
    # Nothing is known before the first fresh start.
    assert stand_ins(packets[1:], {99}, None, coding, more=False) == ({}, None)
    # What follows may need what is kept: the last reference pictures are not replaced.
    early, store = stand_ins(packets[:50], set(), None, coding, more=True)
    assert store is not None
    assert store.pictures
    assert not {reference.packet for reference in store.pictures} & set(early)


def test_foreign_parameters_and_headers(tmp_path: Path) -> None:
    header, packets = coded(encode(tmp_path / "clip.mp4", ""))
    coding = read_coding(header)
    assert coding is not None
    with pytest.raises(ForeignParametersError):
        units_of(memoryview(b"\0\0\0\2\x68\xff"), coding)
    for wrong in (None, b"", b"\0\0\0\1" + header, header[:9], header[:4] + b"\xfd" + header[5:]):
        assert read_coding(wrong) is None
    other, _ = coded(encode(tmp_path / "interlaced.mp4", "interlaced=1"))
    assert read_coding(other) is None
    # A file without the packets that its table promises: no stand-in, and no endless wait.
    assert stand_ins([], set(), None, coding, more=False) == ({}, None)
    assert len(packets) == FRAMES


CODING = Coding(
    number_bits=4, order_bits=4, kept=4, blocks=1, coloured=True, sequence=0, pictures={}, known=frozenset()
)


def a_slice(kind: int, number: int, order: int, *changes: tuple[tuple[int, int], ...], count: int = 4) -> Slice:
    lists = changes or ((),) * (2 if kind == B_SLICE else 1)
    return Slice(False, 1, kind, number, (order, 0), "", (count,) * len(lists), lists, "0", None)


@pytest.mark.parametrize(
    ("before", "low", "expected"), [(14, 2, 18), (18, 14, 14), (5, 9, 9), (3, 11, 11), (11, 3, 19)]
)
def test_the_order_is_told_by_its_lowest_bits(before: int, low: int, expected: int) -> None:
    assert full_order(a_slice(P_SLICE, 0, low), Store(order=before), CODING) == expected


def test_reference_lists_are_those_of_the_standard() -> None:
    # Decoded as packets 0..3 and numbered 14, 15, 0, 1: the numbers go round at 16.
    orders = (0, 8, 4, 16)
    store = Store(tuple(Reference(k, (14 + k) % 16, order) for k, order in enumerate(orders)))

    def packets(part: Slice, shown: int) -> list[list[int]]:
        return [[reference.packet for reference in one] for one in reference_lists(part, shown, store, CODING)]

    assert packets(a_slice(P_SLICE, 2, 0), 20) == [[3, 2, 1, 0]]
    assert packets(a_slice(P_SLICE, 2, 0, count=2), 20) == [[3, 2]]
    assert packets(a_slice(B_SLICE, 2, 0), 6) == [[2, 0, 1, 3], [1, 3, 2, 0]]
    assert packets(a_slice(B_SLICE, 2, 0, count=1), 6) == [[2], [1]]
    # All are shown before it: the two lists would be the same, so the second one begins the other way round.
    assert packets(a_slice(B_SLICE, 2, 0), 20) == [[3, 1, 2, 0], [1, 3, 2, 0]]
    # Three back, then two on; the first one named twice, as for two weights.
    assert packets(a_slice(P_SLICE, 2, 0, ((0, 3), (1, 2))), 20) == [[1, 3, 2, 0]]
    assert packets(a_slice(P_SLICE, 2, 0, ((0, 3), (0, 16)), count=2), 20) == [[1, 1]]
