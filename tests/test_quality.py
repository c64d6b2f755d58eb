"""Direct quality: worked examples by hand, literal formulas in slow Python, and what must hold whatever is chosen."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from refocus_video.data.scenes import Scene, read_scenes, scenes_of
from refocus_video.errors import DataError
from refocus_video.evaluate import quality
from refocus_video.types import Example, Question, Span

TWO: list[Scene] = [(Span(0, 2), Span(10, 12)), (Span(20, 21),)]
"""Scene A lasts 4 s in two stretches, scene B 1 s."""


def _slow(times: list[float], scenes: list[Scene]) -> list[float]:
    """The formulas word by word: KFR, SHR, BSR, BDS, UKSS."""
    if not times:
        return [0.0] * 5
    n = [sum(1 for t in times if any(s.start_s <= t <= s.end_s for s in scene)) for scene in scenes]
    n_tp = sum(1 for t in times if any(s.start_s <= t <= s.end_s for scene in scenes for s in scene))
    length = [sum(s.end_s - s.start_s for s in scene) for scene in scenes]
    kfr = n_tp / len(times)
    shr = sum(1 for n_c in n if n_c > 0) / len(scenes)
    thresholds = [max(1, math.floor(min(L * n_tp / sum(length), n_tp / len(scenes)))) for L in length]
    bsr = sum(1 for n_c, t in zip(n, thresholds, strict=True) if n_c >= t) / len(scenes)
    bds = 0.0
    for e in range(11) if n_tp else ():
        ideal = [L ** (e / 10) for L in length]
        dot = sum(n_c / sum(n) * i for n_c, i in zip(n, ideal, strict=True))
        bds = max(bds, dot / math.hypot(*(n_c / sum(n) for n_c in n)) / math.hypot(*ideal))
    return [kfr, shr, bsr, bds, (kfr * bsr * bds) ** (1 / 3)]


def test_scene_measures_of_a_worked_example() -> None:
    got = quality.found([1, 11, 12, 15], TWO)
    # 3 of 4 frames are useful, all in A. B should have max(1, floor(min(3·1/5, 3/2))) = 1 and has none; A needs 1 of 3.
    assert (got.hit, got.precision, got.scene_hit_rate, got.balanced_recall) == (1.0, 0.75, 0.5, 0.5)
    # n = (3, 0) against (4^e, 1): best at e = 1, cos = 4/√17.
    assert got.balance == pytest.approx(4 / math.sqrt(17))
    assert got.ukss == pytest.approx((0.75 * 0.5 * 4 / math.sqrt(17)) ** (1 / 3))


def test_frames_spread_evenly_or_by_length_are_both_balanced() -> None:
    assert quality.found([0, 20], TWO).balance == pytest.approx(1)
    assert quality.found([0, 1, 10, 11, 20], TWO).balance == pytest.approx(1)
    assert quality.found([0, 1, 10, 11, 20], TWO).ukss == pytest.approx(1)


def test_scene_measures_are_those_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scenes = [
            tuple(Span(start, start + 1 + int(rng.integers(12))) for start in map(int, rng.integers(0, 90, 1 + rng.integers(3))))
            for _ in range(1 + int(rng.integers(5)))
        ]  # fmt: skip
        times = sorted(map(float, rng.integers(0, 100, int(rng.integers(0, 33)))))
        assert list(quality.found(times, scenes)[1:]) == pytest.approx(_slow(times, scenes), abs=1e-12)


@pytest.mark.parametrize("times", [[], [5.0], [5.0, 5.0], [4.0, 5.0, 6.0]])
def test_scenes_without_length_give_numbers(times: list[float]) -> None:
    for scenes in ([(Span(5, 5),)], [(Span(5, 5),), (Span(9, 9),)], [(Span(5, 5),), (Span(0, 9),)]):
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in quality.found(times, scenes))


def test_nothing_found_is_zero_and_the_geometric_mean_has_a_floor() -> None:
    assert quality.found([], TWO) == (0,) * 6
    assert quality.found([15.0], TWO) == (0,) * 6
    assert quality.overall_ukss([0.0, 1.0]) == pytest.approx(0.1)
    assert quality.overall_ukss([0.25, 0.04]) == pytest.approx(0.1)
    with pytest.raises(DataError, match="at least one scene"):
        quality.found([1.0], [])


def test_coverage_and_gap_of_worked_examples() -> None:
    assert quality.coverage([10, 12, 99], 100, 5) == pytest.approx((17 - 5 + 6) / 100)
    assert quality.largest_gap([10, 12, 99], 100) == pytest.approx(0.87)
    assert quality.largest_gap([40], 100) == pytest.approx(0.6)
    assert (quality.coverage([], 100, 5), quality.largest_gap([], 100)) == (0, 1)
    assert (quality.coverage([0.0], 0, 5), quality.largest_gap([0.0], 0)) == (1, 0)


def test_coverage_is_what_a_fine_grid_says() -> None:
    rng = np.random.default_rng(1)
    grid = (np.arange(20000) + 0.5) / 20000 * 60
    for count in (1, 3, 9):
        times = rng.uniform(0, 60, count)
        share = (np.abs(grid[:, None] - times).min(axis=1) <= 2).mean()
        assert quality.coverage(times.tolist(), 60, 2) == pytest.approx(share, abs=2e-3)


def test_redundancy() -> None:
    even = ((np.arange(8) + 0.5) * 100 / 8).tolist()
    assert quality.crowding(even, 100) == 0
    assert quality.crowding([50, 51, 52, 53], 100) == 1
    assert quality.crowding([0, 1, 50], 100) == 0.5
    assert quality.crowding([3], 100) == 0
    rows = np.random.default_rng(2).normal(size=(5, 3))
    pairs = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(rows, 2)]
    assert quality.mean_similarity(rows) == pytest.approx(np.mean(pairs))
    assert quality.mean_similarity(np.ones((3, 2))) == pytest.approx(1)
    assert quality.mean_similarity(np.zeros((3, 2))) == 0


def test_time_entropy_of_worked_and_random_times() -> None:
    # Two times 0.5 apart: H_1 + ln 2 + ln 0.5 = 1.
    assert quality.time_entropy([0.25, 0.75]) == pytest.approx(1)
    rng = np.random.default_rng(3)
    random = [quality.time_entropy(rng.uniform(size=200)) for _ in range(50)]
    narrow = [quality.time_entropy(0.1 * rng.uniform(size=200)) for _ in range(50)]
    assert np.mean([h for h in random if h is not None]) == pytest.approx(0, abs=0.05)
    assert np.mean([h for h in narrow if h is not None]) == pytest.approx(math.log(0.1), abs=0.05)
    repeated = quality.time_entropy([0.5] * 4)
    assert repeated is not None and math.isfinite(repeated) and repeated < -10
    assert quality.time_entropy([0.5]) is None


def test_position_bias_and_divergence() -> None:
    even = quality.time_distribution(np.linspace(0.01, 0.99, 100))
    one = quality.time_distribution([0.0, 0.01])
    last = quality.time_distribution([1.0])
    assert (even.sum(), last[-1]) == (pytest.approx(1), 1)
    assert quality.kl_to_uniform(even) == pytest.approx(0, abs=1e-12)
    assert quality.kl_to_uniform(one) == pytest.approx(math.log(quality.BINS))
    assert quality.kl_to_uniform(quality.time_distribution([])) == 0
    assert quality.js_divergence(one, last) == pytest.approx(math.log(2))
    assert quality.js_divergence(even, even) == 0
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    m = (p + q) / 2
    by_hand = sum(a * math.log(a / b) for a, b in zip(p, m, strict=True) if a) / 2
    by_hand += sum(a * math.log(a / b) for a, b in zip(q, m, strict=True) if a) / 2
    assert quality.js_divergence(p, q) == pytest.approx(by_hand) == quality.js_divergence(q, p)
    with pytest.raises(DataError, match="must sum to 1"):
        quality.js_divergence([0, 0], [0.5, 0.5])
    with pytest.raises(DataError, match="over the same bins"):
        quality.js_divergence([1.0], [0.5, 0.5])


def test_overlap() -> None:
    assert quality.overlap([1, 2, 3], [2, 3, 4]) == 0.5
    assert (quality.overlap([1], [2]), quality.overlap([2, 1], [1, 2]), quality.overlap([], [])) == (0, 1, 1)


KFS = "id,segment_id,scene_id,start,end\nq_0,0,4,0:00:12,0:00:13\nq_0,1,4,1:02:03,1:02:03\nq_0,2,5,1:30,1:31\nq_1,0,0,0:05,0:07\n"


def test_scenes_of_a_kfs_bench_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(KFS)
    assert read_scenes(tmp_path / "a.csv") == {
        "q_0": ((Span(12, 14), Span(3723, 3724)), (Span(90, 92),)),
        "q_1": ((Span(5, 8),),),
    }


def test_scenes_of_ones_own_file_and_of_examples(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "scenes": [[[1, 2], [5, 6]], [[8, 9]]]}\n{"id": "b", "evidence": [[1, 2], [8, 9.5]]}\n{"id": "c"}\n'
    )
    assert read_scenes(tmp_path / "a.jsonl") == {
        "a": ((Span(1, 2), Span(5, 6)), (Span(8, 9),)),
        "b": ((Span(1, 2),), (Span(8, 9.5),)),
    }
    example = Example("a", "v.mp4", Question("Who?", ("A", "B")), 0, (Span(1, 2), Span(3, 4)))
    assert scenes_of([example]) == {"a": ((Span(1, 2),), (Span(3, 4),))}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "id,start,end\nq,0:01,0:02\n", r"a.csv, line 2: no column 'scene_id'"),
        ("a.csv", KFS.replace("0:05", "5"), r"line 5, field 'start': expected a time such as 0:12:05"),
        ("a.csv", KFS.replace("0:07", "0:04"), r"line 5, field 'end': expected a time not before 0:05, found '0:04'"),
        ("a.csv", "id,segment_id,scene_id,start,end\n", "holds no scenes"),
        ("a.jsonl", '{"id": "a", "scenes": [[1, 2]]}\n', r"line 1, field 'scenes': expected scenes of \[start_s, end_s\]"),
        ("a.jsonl", '{"id": "a", "evidence": [[3, 2]]}\n', r"field 'evidence': expected a list of \[start_s, end_s\]"),
        ("a.jsonl", '{"id": "a", "scenes": [[]]}\n', "expected a list of scenes"),
        ("a.jsonl", '{"id": "a", "evidence": [[1, 2]]}\n' * 2, "line 2, field 'id': 'a' was already used"),
        ("a.txt", "", r"evidence is read from .csv"),
    ],
)  # fmt: skip
def test_bad_evidence_files_are_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        read_scenes(tmp_path / name)
    with pytest.raises(DataError, match="no evidence file"):
        read_scenes(tmp_path / "none.csv")
