"""Colours and scaling: against the definition of each colour matrix, computed in floating point."""

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from refocus_video.errors import VideoError
from refocus_video.types import ByteArray
from refocus_video.video.pixels import RgbConverter, orientation

LUMA_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}  # BT.709, BT.601, BT.2020


def smooth_planes(height: int, width: int, seed: int) -> list[ByteArray]:
    """Luma with fine texture, chroma half as large: within the limited range."""
    random = np.random.default_rng(seed)
    planes = []
    for h, w, blocks in ((height, width, 24), (height // 2, width // 2, 8), (height // 2, width // 2, 8)):
        coarse = random.integers(40, 215, (blocks, blocks), dtype=np.uint8)
        planes.append(np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)))
    return planes


def reference_rgb(planes: list[ByteArray], matrix: int, full_range: bool, size: tuple[int, int]) -> ByteArray:
    """Full-size RGB by the textbook formula, then an antialiased bicubic resize."""
    height, width = planes[0].shape
    y, u, v = (
        np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BILINEAR), dtype=float) for p in planes
    )
    if full_range:
        y, u, v = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / green
    rgb = (np.stack([r, g, b], axis=-1).clip(0, 1) * 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BICUBIC))


def difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("size", [(96, 96), (270, 480), (360, 640)])
def test_colours_and_scaling_match_the_definition(matrix: int, full_range: bool, size: tuple[int, int]) -> None:
    planes = smooth_planes(360, 640, seed=matrix)
    frame = av.VideoFrame.from_ndarray(np.concatenate([p.reshape(-1, 640) for p in planes]), format="yuv420p")
    frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
    picture = RgbConverter(size)(frame)
    assert picture.shape == (*size, 3)
    assert picture.flags["C_CONTIGUOUS"]
    assert difference(picture, reference_rgb(planes, matrix, full_range, size)) < 2
    # The tolerance tells colour matrices apart: the wrong one is far outside it.
    other = 5 if matrix != 5 else 1
    assert difference(picture, reference_rgb(planes, other, full_range, size)) > 3


def test_rgb_passes_through_unchanged() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    np.testing.assert_array_equal(RgbConverter(None)(frame), picture)


def test_scaling_does_not_alias() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = RgbConverter((32, 32))(av.VideoFrame.from_ndarray(stripes, format="rgb24"))
    assert np.abs(small[:, 4:-4].astype(int) - 127).max() <= 3


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        ((1, 0, 0, 1), (False, 0)), ((0, 1, -1, 0), (False, 3)), ((-1, 0, 0, -1), (False, 2)), ((0, -1, 1, 0), (False, 1)),
        ((-1, 0, 0, 1), (True, 0)), ((1, 0, 0, -1), (True, 2)), ((0, 1, 1, 0), (True, 1)), ((0, -1, -1, 0), (True, 3)),
        ((0, 0, 0, 0), (False, 0)), ((0.0174, 0.9998, -0.9998, 0.0174), (False, 3)), ((2, 0, 0, 2), (False, 0)),
    ],
)  # fmt: skip
def test_a_display_matrix_is_the_nearest_of_eight_symmetries(
    matrix: tuple[float, float, float, float], found: tuple[bool, int]
) -> None:
    a, b, c, d = (round(value * ONE) for value in matrix)
    assert orientation(np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=np.int32)) == found
    # Where the matrix says a stored point is shown, the picture made by mirroring and turning has it.
    if any(matrix) and all(value in (-1, 0, 1) for value in matrix):
        picture = np.arange(6).reshape(2, 3)
        mirrored, turns = found
        shown = np.rot90(np.fliplr(picture) if mirrored else picture, turns)
        points = [
            (round(matrix[0] * x + matrix[2] * y), round(matrix[1] * x + matrix[3] * y))
            for y in (0, 1)
            for x in (0, 1, 2)
        ]
        left, top = min(x for x, _ in points), min(y for _, y in points)
        assert [shown[y - top, x - left] for x, y in points] == list(range(6))


def test_no_matrix_is_upright_and_a_skewed_one_is_refused() -> None:
    assert orientation(None) == (False, 0)
    with pytest.raises(VideoError, match="45"):
        orientation(np.array([ONE, ONE, 0, -ONE, ONE, 0, 0, 0, 1 << 30], dtype=np.int32))
