"""Contact sheets and timelines: everything fits, sits where it should, and is written whole."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refocus_video.errors import RefocusError
from refocus_video.types import ByteArray, Span
from refocus_video.video.sheet import clock, contact_sheet, fit_text, heat_map, save_image, text_font, timeline

RED = (198, 64, 40)
GREEN = (170, 216, 190)


def solid(colour: tuple[int, int, int], height: int = 90, width: int = 160) -> ByteArray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def pixels_of(image: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    rows, columns = np.nonzero((np.asarray(image) == colour).all(axis=-1))
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


def test_text_fits_and_keeps_what_it_can() -> None:
    font = text_font(13)
    assert fit_text("#120  4.80 s", 500, font) == "#120  4.80 s"
    cut = fit_text("a caption far too long for its cell", 80, font)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 80
    longer = "a caption far too long for its cell"[: len(cut) + 2]  # one letter more, after the space at the cut
    assert longer.startswith(cut[:-1])
    assert font.getlength(longer + "…") > 80
    assert fit_text("one\ntwo", 500, font) == "one two"
    assert fit_text("anything", 1, font) == ""


def test_each_frame_has_its_cell() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 0, 250), (0, 250, 250)]
    sheet = contact_sheet([solid(c) for c in colours], ["x"] * 5, columns=2, cell_width=100)
    corners = [min(pixels_of(sheet, colour), key=lambda p: (p[1], p[0])) for colour in colours]
    assert [c[0] for c in corners] == [corners[0][0], corners[1][0]] * 2 + [corners[0][0]]
    assert corners[0][1] == corners[1][1] < corners[2][1] == corners[3][1] < corners[4][1]
    assert all(len(pixels_of(sheet, colour)) == 100 * 56 for colour in colours)  # 160×90 at width 100


def test_aspect_ratio_is_kept_among_mixed_sizes() -> None:
    sheet = contact_sheet([solid((250, 0, 0)), solid((0, 250, 0), 160, 90)], ["wide", "tall"], columns=2, cell_width=90)
    wide, tall = np.array(pixels_of(sheet, (250, 0, 0))), np.array(pixels_of(sheet, (0, 250, 0)))
    assert (np.ptp(wide, axis=0) + 1).tolist() == [90, 51]
    assert (np.ptp(tall, axis=0) + 1).tolist() == [90, 160]


def test_captions_stay_inside_their_cells() -> None:
    plain = contact_sheet([solid((250, 0, 0))] * 2, ["", ""], cell_width=100)
    long = contact_sheet([solid((250, 0, 0))] * 2, ["word " * 40, ""], cell_width=100)
    changed = np.nonzero((np.asarray(plain) != np.asarray(long)).any(axis=(0, 2)))[0]
    assert len(changed) > 50
    assert changed.max() <= 6 + 100  # the first cell ends at the gap plus its width


@pytest.mark.parametrize(("frames", "captions", "columns"), [(0, 0, 8), (2, 1, 8), (1, 1, 0)])
def test_bad_sheets_are_refused(frames: int, captions: int, columns: int) -> None:
    with pytest.raises(RefocusError, match="contact sheet needs"):
        contact_sheet([solid((1, 2, 3))] * frames, ["x"] * captions, columns=columns)


def test_ticks_and_spans_sit_at_their_times() -> None:
    image = timeline(100.0, [25.0, 75.0], [Span(40.0, 60.0)], width=1056)  # 28 px margins: 10 px per second
    ticks = sorted({x for x, _ in pixels_of(image, RED)})
    assert ticks == pytest.approx([277, 278, 777, 778], abs=2)
    shade = [x for x, _ in pixels_of(image, GREEN)]
    assert (min(shade), max(shade)) == pytest.approx((428, 628), abs=2)


def test_timeline_starts_where_the_video_does() -> None:
    at_zero = timeline(10.0, [2.0], width=600, title="t")
    later = timeline(10.0, [12.0], start_s=10.0, width=600, title="t")
    assert pixels_of(at_zero, RED) == pixels_of(later, RED)


def test_short_spans_are_visible() -> None:
    assert len(pixels_of(timeline(7200.0, [], [Span(10.0, 10.01)]), GREEN)) > 20


def test_bad_timelines_are_refused() -> None:
    with pytest.raises(RefocusError, match="above 0"):
        timeline(0.0, [])
    with pytest.raises(RefocusError, match=r"picked times \[11\.0\]"):
        timeline(10.0, [11.0])


def test_a_heat_map_is_darkest_where_it_is_most_probable_and_frames_the_pick() -> None:
    distributions = np.array([[0.1, 0.2, 0.6, 0.1, 0.0], [0.2, 0.4, 0.0, 0.2, 0.2]])
    image = heat_map(np.arange(5.0), distributions, np.array([2, 3]), width=600)
    frames = pixels_of(image, RED)
    height = (min(y for _, y in frames) + max(y for _, y in frames)) / 2
    first, second = ([x for x, y in frames if (y < height) == above] for above in (True, False))
    cell = max(first) - min(first) - 3  # the frame is a little larger than the candidate
    assert min(second) - min(first) == pytest.approx(cell, abs=2), "one candidate further right"
    for xs, distribution, pick, y in (
        (first, distributions[0], 2, height - 10),
        (second, distributions[1], 3, height + 10),
    ):
        places = [(min(xs) + max(xs)) // 2 + (f - pick) * cell for f in range(5)]
        shades = [int(np.asarray(image)[int(y), x].sum()) for x in places]
        assert np.argsort(shades)[0] == distribution.argmax()
        assert np.argsort(shades)[-1] == distribution.argmin()


def test_rows_of_a_heat_map_share_one_scale() -> None:
    flat, sure = np.full((1, 4), 0.25), np.array([[1.0, 0, 0, 0]])
    pictures = [heat_map(np.arange(4.0), rows, np.array([3]), width=600) for rows in (flat, sure)]
    # The first candidate, away from its edges and from the frame round the pick.
    unsure, certain = (int(np.asarray(image)[20, 100].sum()) for image in pictures)
    assert unsure > certain + 150, "an even distribution looks certain"


def test_a_heat_map_takes_one_candidate_and_thousands() -> None:
    one = heat_map(np.array([3.0]), np.ones((1, 1)), np.array([0]), notes=["p=1"], title="one")
    rng = np.random.default_rng(0)
    many = heat_map(np.arange(3000) / 4, rng.dirichlet(np.ones(3000), 2), np.array([0, 2999]), notes=["a", "b"])
    assert one.width == many.width == 1000
    for picks, notes in (([], []), ([0], []), ([0, 1], ["a"])):
        with pytest.raises(RefocusError, match="heat map needs picks") as caught:
            heat_map(np.arange(3.0), np.ones((2, 3)), np.array(picks), notes=notes)
        assert "\n" not in str(caught.value)


def test_clock() -> None:
    assert [clock(t) for t in (0, 59.96, 61, 3600, 7325, -5)] == ["0:00", "1:00", "1:01", "1:00:00", "2:02:05", "-0:05"]
    assert clock(1.26, 0.1) == "0:01.3"


def test_images_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    image = Image.fromarray(solid((9, 8, 7)))
    save_image(image, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (9, 8, 7)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OSError, match="mode"):
        save_image(Image.new("RGBA", (4, 4)), tmp_path / "b.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before
    for name in ("a.unknown", "no/such/folder.png"):
        with pytest.raises(RefocusError):
            save_image(image, tmp_path / name)
