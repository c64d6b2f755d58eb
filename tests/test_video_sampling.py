"""Sampling indices: the paper's formula, and what must hold for every input."""

import numpy as np
import pytest

from refocus_video.errors import BudgetError, VideoError
from refocus_video.video.sampling import candidate_indices, uniform_positions


@pytest.mark.parametrize(
    ("num_frames", "duration", "count"),
    [(300, 10.0, 40), (15000, 600.0, 512), (1, 0.0, 1), (25, 1.0, 4), (10, 0.2, 1), (7, 100.0, 7)],
)
def test_candidates_follow_the_papers_formula(num_frames: int, duration: float, count: int) -> None:
    indices = candidate_indices(num_frames, duration)
    expected = [int(num_frames - 1) * k // max(count - 1, 1) for k in range(count)]
    assert len(indices) == count
    assert indices.dtype == np.int64
    assert np.abs(indices - expected).max() <= 1  # linspace in floating point may fall one short


def test_candidates_known_values() -> None:
    assert candidate_indices(10, 1.0).tolist() == [0, 3, 6, 9]
    assert candidate_indices(101, 1.25, fps=4.0).tolist() == [0, 25, 50, 75, 100]
    assert candidate_indices(30, 60.0, fps=2.0, max_frames=4).tolist() == [0, 9, 19, 29]


def test_candidates_never_repeat_a_frame() -> None:
    for num_frames in [*range(1, 700, 13), 511, 512, 513, 1000, 99999]:
        indices = candidate_indices(num_frames, 1e4)
        assert (np.diff(indices) > 0).all()
        assert indices[0] == 0
        assert indices[-1] == (num_frames - 1 if num_frames > 1 else 0)
        assert len(indices) == min(num_frames, 512)


@pytest.mark.parametrize(("num_frames", "duration"), [(0, 1.0), (-3, 1.0), (5, -1.0), (5, float("nan"))])
def test_candidates_refuse_impossible_videos(num_frames: int, duration: float) -> None:
    with pytest.raises(VideoError):
        candidate_indices(num_frames, duration)


def test_uniform_positions_are_the_middles_of_equal_stretches() -> None:
    assert uniform_positions(8, 4).tolist() == [1, 3, 5, 7]
    assert uniform_positions(9, 3).tolist() == [1, 4, 7]
    assert uniform_positions(10, 1).tolist() == [5]
    assert uniform_positions(512, 32).tolist() == list(range(8, 512, 16))


def test_uniform_positions_increase_and_mirror() -> None:
    for pool in range(1, 60):
        for budget in range(1, pool + 1):
            positions = uniform_positions(pool, budget)
            assert len(positions) == budget
            assert (np.diff(positions) > 0).all()
            assert positions[0] >= 0
            assert positions[-1] < pool
            # Mirrored, each stretch still holds its own middle (which is between two frames when it is even).
            assert np.abs((pool - 1 - positions)[::-1] - positions).max() <= 1
    assert uniform_positions(17, 17).tolist() == list(range(17))


@pytest.mark.parametrize("budget", [0, -1, 6])
def test_uniform_positions_refuse_other_budgets(budget: int) -> None:
    with pytest.raises(BudgetError, match="from 1 to 5"):
        uniform_positions(5, budget)
