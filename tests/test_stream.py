"""Videos are indexed as a stream: the same numbers as at once, in constant memory, and further frames are appended."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from refocus_video.config import SamplingConfig
from refocus_video.errors import BudgetError, DataError, VideoError
from refocus_video.policy.records import VideoIndex
from refocus_video.selectors.learned import FrameSelector, Learned
from refocus_video.selectors.store import IndexStore
from refocus_video.selectors.stream import IndexingProgress, index_video
from refocus_video.types import Question, Timeline
from refocus_video.video.ahead import ahead
from refocus_video.video.candidates import load_candidates
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices, clock_indices
from test_policy_model import assert_same_state
from tiny_policy import tiny_features, tiny_policy
from video_clips import barcode, write_clip

DOUBLE = torch.float64
SAMPLING = SamplingConfig(fps=5.0, max_frames=32)
QUESTION = Question("what is shown", ("red", "blue"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 25 a second."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", [40 * k for k in range(100)], options={"g": "10"})


def assert_same_index(left: VideoIndex, right: VideoIndex, atol: float) -> None:
    for a, b in ((left.keys, right.keys), (left.values, right.values), (left.valid, right.valid)):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
    assert_same_state(left.state, right.state, atol)


# ------------------------------------------------------------------ the policy


@pytest.mark.parametrize("method", ["autoregressive", "block"])
@pytest.mark.parametrize("cuts", [(9,), (1, 8), (4, 3, 2), (0, 9)])
def test_an_extended_index_equals_one_made_at_once(cuts: tuple[int, ...], method: str) -> None:
    policy = tiny_policy(DOUBLE, frame_generation_method=method)
    features = tiny_features(policy, dtype=DOUBLE)
    whole = policy.index(features)
    index = policy.start_index(2)
    assert len(index) == 0
    for part in torch.split(features, list(cuts), dim=1):
        index = policy.extend(index, part) if part.shape[1] else index
    assert len(index) == 9
    assert_same_index(index, whole, 1e-10)


def test_an_extended_index_leaves_the_old_one_as_it_was() -> None:
    policy = tiny_policy(DOUBLE)
    features = tiny_features(policy, dtype=DOUBLE)
    first = policy.index(features[:, :4])
    before = first.keys.clone(), [layer.ssm.clone() for layer in first.state.layers]
    policy.extend(first, features[:, 4:])
    assert torch.equal(first.keys, before[0])
    assert all(torch.equal(layer.ssm, old) for layer, old in zip(first.state.layers, before[1], strict=True))


def test_nothing_kept_holds_on_to_the_activations_of_the_video() -> None:
    policy = tiny_policy(frame_generation_method="block")
    with torch.no_grad():
        index = policy.index(tiny_features(policy, frames=64))
    for kept in (index.values, *(layer.conv for layer in index.state.layers)):
        assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("group", [None, 1, 7, 32])
def test_a_streamed_file_gives_the_index_of_its_frames(clip: Path, group: int | None) -> None:
    policy = tiny_policy()
    seen: list[IndexingProgress] = []
    timeline, index = index_video(policy, clip, SAMPLING, group=group, progress=seen.append)
    candidates = load_candidates(clip, (32, 32), SAMPLING)
    whole = policy.index(policy.encode(candidates.frames)[None])
    assert_same_index(index, whole, 1e-5)
    assert timeline.frame_indices.tolist() == candidates.frame_indices.tolist()
    assert timeline.times.tolist() == candidates.times.tolist()
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (20, 20, 0)
    assert all(a.done < b.done and a.seconds <= b.seconds for a, b in pairwise(seen))
    assert seen[-1].frames_per_s > 0


def test_the_limit_of_candidates_is_a_setting(clip: Path) -> None:
    assert candidate_indices(4000, 1000.0).size == 512
    for unlimited in (None, 0):
        assert candidate_indices(4000, 1000.0, max_frames=unlimited).size == 4000
        timeline, _ = index_video(tiny_policy(), clip, SamplingConfig(fps=20, max_frames=unlimited))
        assert len(timeline) == 80
    with pytest.raises(VideoError, match="no video file"):
        FrameSelector(tiny_policy()).open("missing.mp4")


MEASURE = """
import resource, sys
import torch
sys.path.insert(0, {tests!r})
from refocus_video.config import SamplingConfig
from refocus_video.selectors.store import IndexStore
from refocus_video.selectors.stream import index_video
from tiny_policy import tiny_config, tiny_policy

vision = tiny_config().vision.model_copy(update={{"image_size": 128, "patch_size": 32}})
policy = tiny_policy(vision=vision.model_dump())
for frames in (256, 256, 256, 2048):  # after a warm-up
    timeline, index = index_video(policy, {video!r}, SamplingConfig(fps=25, max_frames=frames))
    assert len(timeline) == frames
    kept = index.keys.nbytes + index.values.nbytes
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, kept)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak differs between systems")
def test_eight_times_the_frames_cost_no_more_memory(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "long.mp4", [40 * k for k in range(2048)], "mpeg4")
    code = MEASURE.format(tests=str(Path(__file__).parent), video=str(video))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    *_, short, long = (tuple(map(int, line.split())) for line in run.stdout.splitlines())
    # The pictures alone would be 88 MB more: about a fifth of the whole process.
    assert long[0] - long[1] <= 1.05 * (short[0] - short[1])


# ------------------------------------------------------------------ the background thread


def test_the_next_item_is_prepared_while_this_one_is_used() -> None:
    second = threading.Event()

    def items() -> Iterator[str]:
        yield threading.current_thread().name
        second.set()
        yield threading.current_thread().name

    with ahead(items()) as prepared:
        first = next(prepared)
        assert second.wait(10)
        names = [first, *prepared]
    assert len(names) == 2
    assert threading.current_thread().name not in names


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise VideoError("broken here")

    with ahead(items()) as prepared:
        assert next(prepared) == 1
        with pytest.raises(VideoError, match="broken here"):
            next(prepared)


def test_leaving_early_asks_for_no_more_than_the_item_in_work() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for k in range(1000):
            asked.append(k)
            yield k

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), ahead(items()) as prepared:
        for item in prepared:
            if item == 3:
                raise KeyboardInterrupt
    assert len(asked) <= 5
    assert threading.active_count() == before


def test_a_file_that_breaks_off_says_so(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(self: VideoReader, indices: object, size: object = None) -> Iterator[tuple[int, np.ndarray]]:
        yield 0, np.zeros((32, 32, 3), np.uint8)
        raise VideoError("frame 5 cannot be decoded")

    monkeypatch.setattr(VideoReader, "frames", frames)
    with pytest.raises(VideoError, match="frame 5 cannot be decoded"):
        FrameSelector(tiny_policy()).open(clip)


# ------------------------------------------------------------------ frames pushed by the caller


def test_a_selector_prints_as_one_line(tmp_path: Path) -> None:
    policy = tiny_policy()
    assert re.fullmatch(
        r"FrameSelector\(0\.\d M parameters, cpu, float32, 4 candidates a second, at most 512, no store\)",
        repr(FrameSelector(policy)),
    )
    kept = FrameSelector(policy, sampling=SamplingConfig(fps=0.5, max_frames=None), store=IndexStore(tmp_path))
    assert repr(kept).endswith(f"0.5 candidates a second, no limit, store {str(tmp_path)!r})")


def test_pushed_frames_give_what_a_file_with_them_gives(clip: Path) -> None:
    selector = FrameSelector(tiny_policy(), sampling=SAMPLING)
    candidates = load_candidates(clip, (32, 32), SAMPLING)
    live = selector.live(str(clip))
    for rows in (slice(0, 1), slice(1, 12), slice(12, 20)):
        live.push(candidates.frames[rows], candidates.times[rows], candidates.frame_indices[rows])
    assert live.select(QUESTION, 4).to_json() == selector.select(clip, QUESTION, 4).to_json()
    (expected,) = Learned(selector.policy).open(candidates).pick([QUESTION], 4)
    assert live.select(QUESTION, 4).positions.tolist() == sorted(expected.positions.tolist())


def test_pushed_frames_may_have_any_size_and_are_numbered_on() -> None:
    live = FrameSelector(tiny_policy()).live()
    assert repr(live) == "LiveVideo('live', 0 candidates)"
    with pytest.raises(BudgetError, match="live has no candidate frame yet"):
        live.select(QUESTION, 1)
    live.push(np.stack([barcode(k) for k in range(3)]), np.array([0.0, 0.5, 1.0]))
    earlier = live.opened()
    live.push(np.stack([barcode(k, 48, 48) for k in range(2)]), np.array([1.0, 2.0]))
    assert live.timeline.frame_indices.tolist() == [0, 1, 2, 3, 4]
    assert len(live.select(QUESTION, 5)) == 5
    assert earlier.select(QUESTION, 4).positions.tolist() == [0, 1, 2]  # what came later is not among them


@pytest.mark.parametrize(
    ("count", "times", "indices", "said"),
    [
        (2, [0.5], None, "2, 32, 32, 3.* and 1 times"),
        (1, [0.9], None, "must increase"),
        (1, [1.5], [1], "must increase"),
        (1, [1.5], [3, 4], "one frame index and one time each"),
    ],
)
def test_frames_that_do_not_fit_are_refused_whole(
    count: int, times: list[float], indices: list[int] | None, said: str
) -> None:
    live = FrameSelector(tiny_policy()).live()
    live.push(np.zeros((2, 32, 32, 3), np.uint8), np.array([0.0, 1.0]))
    before = live.opened()
    with pytest.raises(DataError, match=said):
        live.push(
            np.zeros((count, 32, 32, 3), np.uint8), np.array(times), None if indices is None else np.array(indices)
        )
    assert live.opened() == before


# ------------------------------------------------------------------ files that grow


def test_the_clock_chooses_the_first_frame_of_each_tick() -> None:
    times = 3.0 + np.arange(100) / 25
    assert clock_indices(times, 5.0).tolist() == list(range(0, 100, 5))
    for part in (0, 1, 37, 99):
        assert clock_indices(times[:part], 4.0).tolist() == [i for i in clock_indices(times, 4.0) if i < part]
    gappy = np.array([0.0, 0.1, 5.0, 5.05, 5.3])
    assert clock_indices(gappy, 4.0).tolist() == [0, 2, 4]


def test_a_growing_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "growing.ts"
    pts = [40 * k for k in range(100)]
    selector = FrameSelector(tiny_policy(), sampling=SAMPLING)
    write_clip(path, pts[:60], options={"g": "10"})
    video = selector.follow(path)
    assert len(video) == 9  # of 60 frames 16 are held back
    assert repr(video) == f"GrowingVideo({str(path)!r}, 9 candidates, 0.00–1.60 s)"
    assert video.refresh() == 0
    write_clip(path, pts, options={"g": "10"})
    assert video.refresh() == 8
    assert video.refresh(final=True) == 3
    assert video.timeline.frame_indices.tolist() == list(range(0, 100, 5))
    at_once = selector.follow(path)
    at_once.refresh(final=True)
    assert at_once.select(QUESTION, 5).to_json() == video.select(QUESTION, 5).to_json()


def test_another_file_under_the_name_of_a_growing_one_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "growing.ts", [40 * k for k in range(60)])
    video = FrameSelector(tiny_policy(), sampling=SAMPLING).follow(path)
    before = video.opened()
    for pts in ([50 * k for k in range(80)], [40 * k for k in range(20)]):
        write_clip(path, pts)
        with pytest.raises(VideoError, match="not the first ones of the file any more; follow it anew"):
            video.refresh()
    assert video.opened() == before


def test_a_timeline_is_in_order() -> None:
    with pytest.raises(DataError, match="must increase"):
        Timeline("v", np.array([1, 1]), np.array([0.0, 1.0]))
