"""One contract for every kind of file: frames by index equal a plain sequential decode bit for bit, or VideoError."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from refocus_video.errors import VideoError
from refocus_video.types import ByteArray
from refocus_video.video.pixels import RgbConverter
from refocus_video.video.reader import VideoReader
from refocus_video.video.table import hides_picture
from video_clips import SHARED, decode_in_order, number_of, write_clip

X264 = "keyint=24:min-keyint=24:bframes=3:b-adapt=0:scenecut=0"
X265 = "keyint=24:min-keyint=24:open-gop=1:bframes=4:log-level=none"
FRAMES = 72


@dataclass(frozen=True)
class Kind:
    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    base: Fraction = Fraction(1, 1000)
    movflags: str = ""
    first: int = 0
    """Number of the first frame that the file still shows."""


KINDS = [
    Kind("plain.mp4", options={"x264-params": X264}),
    Kind("open-gop.mp4", options={"x264-params": X264 + ":open-gop=1:b-pyramid=normal"}),
    Kind("open-gop.mkv", options={"x264-params": X264 + ":open-gop=1"}),
    Kind("open-gop.ts", options={"x264-params": X264 + ":open-gop=1"}, base=Fraction(1, 90000)),
    Kind("intra-refresh.mp4", options={"x264-params": "keyint=24:intra-refresh=1:bframes=2"}),
    Kind("interlaced.ts", options={"x264-params": X264 + ":interlaced=1"}, base=Fraction(1, 90000)),
    Kind("fragments.mp4", options={"x264-params": X264}, movflags="frag_keyframe+empty_moov"),
    Kind("order-only.avi", options={"x264-params": X264}, base=Fraction(1, 25)),
    Kind("hevc.mp4", "libx265", {"x265-params": X265}),
    Kind("hevc.ts", "libx265", {"x265-params": X265}, base=Fraction(1, 90000)),
    Kind("vp8.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "24", "b": "100k"}),
    Kind("vp9.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "24", "cpu-used": "5"}),
    Kind("mpeg4.avi", "mpeg4", {"bf": "2", "g": "12"}, base=Fraction(1, 25)),
    Kind("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "12"}, base=Fraction(1, 25)),
]


def make(folder: Path, kind: Kind) -> Path:
    step = int(Fraction(1, 25) / kind.base)
    return write_clip(
        folder / kind.name,
        [step * number for number in range(FRAMES)],
        codec=kind.codec,
        options=kind.options,
        time_base=kind.base,
        container_options={"movflags": kind.movflags} if kind.movflags else None,
    )


def scattered(count: int, seed: int, wanted: int) -> list[int]:
    """A few frame indices, the last always among them."""
    chosen = np.random.default_rng(seed).choice(count, min(wanted, count), replace=False)
    return sorted({*chosen.tolist(), count - 1})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_frames_by_index_equal_a_sequential_decode(tmp_path: Path, kind: Kind) -> None:
    path = make(tmp_path, kind)
    convert = RgbConverter(None)
    truth = [convert(frame) for frame in decode_in_order(path)]
    assert [number_of(picture) for picture in truth] == list(range(FRAMES))
    with VideoReader(path) as reader:
        assert reader.info.num_frames == FRAMES
        assert reader.info.duration_s == pytest.approx(FRAMES / 25, abs=0.01)
        np.testing.assert_allclose(np.diff(reader.times), 0.04, atol=1.1e-3)
        for seed in range(6):
            for index, picture in reader.frames(scattered(FRAMES, seed, 2 * seed + 1)):
                np.testing.assert_array_equal(picture, truth[index])


def test_frames_before_the_first_keyframe_are_not_counted(tmp_path: Path) -> None:
    whole = make(tmp_path, KINDS[3]).read_bytes()
    path = tmp_path / "tuned-in-late.ts"
    path.write_bytes(whole[: 188 * 3] + whole[188 * 12 :])
    seen = [(number_of(RgbConverter(None)(f)), f.time) for f in decode_in_order(path)]
    assert seen[0][0] > 0
    with VideoReader(path) as reader:
        assert reader.info.num_frames == len(seen)
        for index, picture in reader.frames(scattered(len(seen), 0, 5)):
            number, stored = seen[index]
            assert number_of(picture) == number
            assert stored == pytest.approx(reader.info.start_s + float(reader.times[index]))


@pytest.mark.parametrize("name", ["plain.mp4", "fragments.mp4", "open-gop.mkv", "vp9.webm", "mpeg4.avi"])
def test_a_cut_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    whole = make(tmp_path, kind).read_bytes()
    path = tmp_path / f"cut-{name}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(VideoError) as error:
        VideoReader(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_mp4_says_how_much_is_there(tmp_path: Path) -> None:
    path = tmp_path / "head-first.mp4"
    write_clip(path, [40 * k for k in range(FRAMES)], container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(VideoError, match=rf"cut off: it holds \d+ of the {FRAMES} frames"):
        VideoReader(path)


@pytest.mark.parametrize("where", [0.3, 0.4, 0.5, 0.7, 0.8])
def test_frames_touched_by_noticed_damage_are_refused(tmp_path: Path, where: float) -> None:
    path = write_clip(
        tmp_path / "damaged.mp4",
        [40 * k for k in range(FRAMES)],
        options={"x264-params": X264},
        size=(240, 360),
    )
    convert = RgbConverter(None)
    truth = [convert(frame) for frame in decode_in_order(path)]
    data = bytearray(path.read_bytes())
    at = int(data.index(b"moov") * where)
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    # Places where the decoder notices. Zeros that happen to be valid pictures leave no trace in any reader.
    refused = 0
    with VideoReader(path) as reader:
        for index in range(FRAMES):
            try:
                np.testing.assert_array_equal(reader.read([index])[0], truth[index])
            except VideoError:
                refused += 1
    assert 0 < refused < FRAMES


def test_hidden_pictures_are_recognised() -> None:
    assert hides_picture("h264", memoryview(b""))
    assert hides_picture("vp8", memoryview(bytes([0b00000000])))
    assert not hides_picture("vp8", memoryview(bytes([0b00010000])))
    # VP9: marker 10, profile 00, show_existing, frame_type, show_frame, error_res
    assert not hides_picture("vp9", memoryview(bytes([0b10000010, 0])))
    assert hides_picture("vp9", memoryview(bytes([0b10000100, 0])))
    assert not hides_picture("vp9", memoryview(bytes([0b10001000, 0])))
    assert not hides_picture("vp9", memoryview(bytes([0b10000100, 0xC0])))  # superframe
    assert not hides_picture("h264", memoryview(b"\x00"))


def _set_rotation(path: Path, matrix: list[int]) -> None:
    data = path.read_bytes()
    identity = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    a, b, c, d = (v << 16 for v in matrix)
    turned = b"".join(v.to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    at = data.index(identity, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(identity) :])


# Rows of the matrix as stored, and the counter-clockwise quarter turns that show the picture upright.
@pytest.mark.parametrize(
    ("matrix", "turns"), [([1, 0, 0, 1], 0), ([0, 1, -1, 0], 3), ([-1, 0, 0, -1], 2), ([0, -1, 1, 0], 1)]
)
def test_rotation_is_applied(tmp_path: Path, matrix: list[int], turns: int) -> None:
    path = make(tmp_path, KINDS[0])
    with VideoReader(path) as reader:
        plain, scaled = reader.read([7])[0], reader.read([7], (30, 50))[0]
    _set_rotation(path, matrix)
    with VideoReader(path) as reader:
        turned = reader.read([7])[0]
        assert (reader.info.height, reader.info.width) == turned.shape[:2]
        assert reader.info.rotation % 360 == 90 * turns
        size = (50, 30) if turns % 2 else (30, 50)
        np.testing.assert_array_equal(reader.read([7], size)[0], np.rot90(scaled, turns))
    np.testing.assert_array_equal(turned, np.rot90(plain, turns))


@pytest.mark.parametrize(
    ("matrix", "show"),
    [
        ([-1, 0, 0, 1], np.fliplr),
        ([1, 0, 0, -1], np.flipud),
        ([0, 1, 1, 0], lambda picture: picture.transpose(1, 0, 2)),
        ([0, 0, 0, 0], lambda picture: picture),
    ],
)
def test_mirrored_pictures_are_shown_mirrored(
    tmp_path: Path, matrix: list[int], show: Callable[[ByteArray], ByteArray]
) -> None:
    path = make(tmp_path, KINDS[0])
    with VideoReader(path) as reader:
        plain, scaled = reader.read([7])[0], reader.read([7], (30, 50))[0]
    _set_rotation(path, matrix)
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(reader.read([7])[0], show(plain))
        expected = show(scaled)
        height, width = expected.shape[:2]
        np.testing.assert_array_equal(reader.read([7], (height, width))[0], expected)


def test_skewed_pictures_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path, KINDS[0])
    _set_rotation(path, [1, 1, -1, 1])
    with pytest.raises(VideoError, match=r"rotation by -?45"):
        VideoReader(path)


def test_frames_outside_the_edit_list_are_not_counted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "trimmed.mp4", [40 * k - 200 for k in range(40)], options={"x264-params": X264})
    seen = [number_of(RgbConverter(None)(frame)) for frame in decode_in_order(path)]
    assert seen == list(range(5, 40))
    with VideoReader(path) as reader:
        assert reader.info.num_frames == 35
        assert [number_of(picture) for _, picture in reader.frames([0, 17, 34])] == [5, 22, 39]


def test_one_frame(tmp_path: Path) -> None:
    with VideoReader(write_clip(tmp_path / "one.mp4", [0])) as reader:
        assert reader.info.num_frames == 1
        assert number_of(reader.read([0])[0]) == 0


@pytest.mark.parametrize("what", ["missing", "folder", "empty", "text", "playlist", "huge"])
def test_what_is_not_a_video_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / f"{what}.mp4"
    canvas = (16000).to_bytes(2, "little") * 2
    content = {
        "empty": b"",
        "text": b"this is no video\n" * 40,
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "huge": b"GIF89a" + canvas + b"\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    }
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(content[what])
    with pytest.raises(VideoError) as error:
        VideoReader(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    if what == "huge":
        assert "16000×16000" in str(error.value)


def _shared() -> list[Path]:
    return sorted([*(SHARED / "clips").glob("*"), *(SHARED / "odd").glob("*")])


@pytest.mark.skipif(not _shared(), reason="the shared folder of real clips is not here")
@pytest.mark.parametrize("path", _shared(), ids=lambda path: path.name)
def test_real_files_give_the_frames_of_a_sequential_decode_or_an_error(path: Path) -> None:
    size = (48, 64)
    try:
        with VideoReader(path) as reader:
            count = reader.info.num_frames
            wanted = scattered(count, 1, 6)
            pictures = dict(reader.frames(wanted, size))
            times, start = reader.times, reader.info.start_s
    except VideoError as error:
        assert path.parent.name == "odd", f"a sound clip was refused: {error}"
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return
    convert, decoded = RgbConverter(size), 0
    for index, frame in enumerate(decode_in_order(path)):
        assert frame.time == pytest.approx(start + times[index])
        if index in pictures:
            np.testing.assert_array_equal(pictures[index], convert(frame))
        decoded += 1
    assert decoded == count


@pytest.mark.skipif(not _shared(), reason="the shared folder of real clips is not here")
@pytest.mark.parametrize(
    "name",
    ["derived_truncated_60pct.mp4", "truncated_annexb.mp4", "header_only_231s.mp4", "derived_bitflips_400.mp4"],
)
def test_real_damaged_files_are_refused(name: str) -> None:
    with pytest.raises(VideoError), VideoReader(SHARED / "odd" / name) as reader:
        list(reader.frames(range(reader.info.num_frames), (8, 8)))


def test_the_default_stream_is_read_not_the_first(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [
            container.add_stream("libx264", rate=25, width=w, height=h, pix_fmt="yuv420p")
            for w, h in ((64, 64), (96, 48))
        ]
        streams[0].disposition, streams[1].disposition = av.stream.Disposition(0), av.stream.Disposition.default
        for count, stream in zip((1, 12), streams, strict=True):
            for k in range(count):
                frame = av.VideoFrame.from_ndarray(
                    np.full((stream.height, stream.width, 3), 9 * k, np.uint8), format="rgb24"
                )
                frame.pts, frame.time_base = k, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert (reader.info.width, reader.info.height, reader.info.num_frames) == (96, 48, 12)
