"""The reader on small self-made files: every frame is the one asked for, at the time the file stores."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from refocus_video.config import SamplingConfig
from refocus_video.errors import VideoError
from refocus_video.video.candidates import load_candidates
from refocus_video.video.reader import VideoReader
from video_clips import HEIGHT, WIDTH, decode_in_order, number_of, write_clip

B_FRAMES = {"preset": "medium", "x264-params": "keyint=24:min-keyint=24:bframes=3:b-adapt=0:scenecut=0"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 frames at 25 fps with B-frames and a keyframe every 24 frames."""
    path = tmp_path_factory.mktemp("video") / "plain.mp4"
    return write_clip(path, [40 * k for k in range(200)], options=B_FRAMES)


def test_info_and_times(clip: Path) -> None:
    with VideoReader(clip) as reader:
        info = reader.info
        np.testing.assert_allclose(reader.times, np.arange(200) * 0.04)
    assert (info.width, info.height, info.num_frames, info.codec) == (WIDTH, HEIGHT, 200, "h264")
    assert info.duration_s == pytest.approx(8.0)
    assert info.path == str(clip)


@pytest.mark.parametrize(
    "indices", [[0], [199], [23, 24, 25], [5, 100, 101, 180], list(range(0, 200, 7)), list(range(200))]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_each_index_gives_its_frame(clip: Path, indices: list[int], threads: int) -> None:
    with VideoReader(clip, threads) as reader:
        assert [(i, number_of(picture)) for i, picture in reader.frames(indices)] == [(i, i) for i in indices]


def test_random_access_is_bit_equal_to_sequential(clip: Path) -> None:
    wanted = sorted(np.random.default_rng(0).choice(200, 20, replace=False).tolist())
    with VideoReader(clip) as reader:
        every = reader.read(range(200), (40, 50))
        np.testing.assert_array_equal(reader.read(wanted, (40, 50)), every[wanted])


def test_candidates_carry_true_times(tmp_path: Path) -> None:
    times = [500, 505, 530, 900, 2000, 2010, 4000, 4100, 4200, 4300]
    path = write_clip(tmp_path / "vfr.mkv", times, options=B_FRAMES)
    candidates = load_candidates(path, (32, 48), SamplingConfig(fps=1.0))
    assert candidates.frames.shape == (len(candidates), 32, 48, 3)
    assert [number_of(frame) for frame in candidates.frames] == candidates.frame_indices.tolist()
    # A player begins where the file does, at half a second as stored.
    np.testing.assert_allclose(candidates.times, np.array(times)[candidates.frame_indices] / 1000 - 0.5, atol=1e-12)
    assert candidates.frame_indices.tolist() == [0, 4, 9]  # 3.9 s at 1 per second: three, evenly over the ten frames


@pytest.mark.parametrize(
    ("name", "start", "base"),
    [
        ("late.mp4", 90 * 700, Fraction(1, 90000)),
        ("late.ts", 900000, Fraction(1, 90000)),
        ("late.mkv", 700, Fraction(1, 1000)),
    ],
)
def test_time_0_is_where_a_player_begins(tmp_path: Path, name: str, start: int, base: Fraction) -> None:
    step = int(Fraction(1, 25) / base)
    path = write_clip(tmp_path / name, [start + step * k for k in range(60)], options=B_FRAMES, time_base=base)
    stored = [frame.time for frame in decode_in_order(path)]
    with VideoReader(path) as reader:
        np.testing.assert_allclose(reader.info.start_s + reader.times, stored)
        assert stored[0] > 0.5
        assert reader.times[0] == 0
        assert [number_of(p) for _, p in reader.frames([0, 30, 59])] == [0, 30, 59]
        assert reader.info.duration_s == pytest.approx(2.4, abs=0.002)


def test_pictures_that_begin_after_the_file_keep_their_delay(tmp_path: Path) -> None:
    path = tmp_path / "delayed.mkv"
    with av.open(str(path), "w") as container:
        sound, film = container.add_stream("pcm_s16le", rate=8000), container.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 96, 48, "yuv420p"
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        noise.sample_rate, noise.pts, noise.time_base = 8000, 16000, Fraction(1, 8000)  # the file begins at 2 s
        container.mux(sound.encode(noise))
        for k in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((48, 96, 3), 40 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 65 + k, Fraction(1, 25)  # the pictures at 2.6 s
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
    with VideoReader(path) as reader:
        assert reader.info.start_s == pytest.approx(2.0)
        np.testing.assert_allclose(reader.times, 0.6 + 0.04 * np.arange(5), atol=1e-6)


@pytest.mark.parametrize("indices", [[3, 3], [5, 2], [-1, 4], [0, 200], [[1], [2]]])
def test_bad_indices_are_refused(clip: Path, indices: list[int]) -> None:
    with VideoReader(clip) as reader, pytest.raises(VideoError):
        list(reader.frames(indices))


def test_no_indices_give_no_frames(clip: Path) -> None:
    with VideoReader(clip) as reader:
        assert list(reader.frames([])) == []
        assert reader.read([], (8, 8)).shape == (0, 8, 8, 3)


def test_two_iterators_do_not_disturb_each_other(clip: Path) -> None:
    with VideoReader(clip) as reader:
        pairs = zip(reader.frames([3, 90, 150]), reader.frames([80, 81, 199]), strict=True)
        assert [(number_of(a), number_of(b)) for (_, a), (_, b) in pairs] == [(3, 80), (90, 81), (150, 199)]


def test_a_closed_reader_refuses(clip: Path) -> None:
    reader = VideoReader(clip)
    reader.close()
    with pytest.raises(VideoError, match="closed"):
        list(reader.frames([0]))
