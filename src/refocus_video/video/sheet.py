"""Pictures for people: frames on a contact sheet, picked times on a timeline, probabilities over time as a heat map."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refocus_video.errors import RefocusError
from refocus_video.files import replacing
from refocus_video.types import ByteArray, FloatArray, IntArray, Span

_BACKGROUND = (250, 250, 248)
_INK = (32, 36, 42)
_FAINT = (128, 134, 142)
_RULE = (208, 211, 215)
_BAR = (229, 232, 236)
_SPAN = (170, 216, 190)
_TICK = (198, 64, 40)
_HEAT = ((238, 240, 243), (86, 156, 214), (9, 44, 96))  # improbable, between, most probable
_ELLIPSIS = "…"
_FONT_SIZE = 13  # of captions and marks, in pixels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def text_font(size: int) -> Font:
    """The font of every sheet, ``size`` pixels high."""
    # Pillow's own font holds little more than ASCII; the one shipped with matplotlib knows most alphabets.
    # Its file is found without importing matplotlib.
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def fit_text(text: str, width: float, font: Font) -> str:
    """The text, shortened with "…" at its end so that it is at most ``width`` pixels wide; "" if nothing fits."""
    text = " ".join(text.splitlines())
    if font.getlength(text) <= width:
        return text
    kept = next((n for n in range(len(text), -1, -1) if font.getlength(text[:n].rstrip() + _ELLIPSIS) <= width), None)
    return "" if kept is None else text[:kept].rstrip() + _ELLIPSIS


def _shrink(frame: ByteArray, width: int, height: int) -> Image.Image:
    """The frame as large as fits the cell, with its aspect ratio kept."""
    picture = Image.fromarray(frame)
    scale = min(width / picture.width, height / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def contact_sheet(
    frames: ByteArray | Sequence[ByteArray],
    captions: Sequence[str],
    *,
    columns: int = 8,
    cell_width: int = 200,
    title: str = "",
) -> Image.Image:
    """Frames in rows, each with its caption below, such as ``#120  4.80 s  p=0.31``.

    Args:
        frames: RGB pictures, each (height, width, 3) uint8; sizes may differ, aspect ratios are kept.
        captions: one line for each frame; cut with "…" where too long.
        columns: frames per row.
        cell_width: width of a frame in pixels.
        title: a line above the frames; empty for none.

    Raises:
        RefocusError: there are no frames, or not one caption for each.
    """
    if len(frames) == 0 or len(frames) != len(captions) or columns < 1:
        raise RefocusError(
            f"a contact sheet needs frames, a caption for each, and a column; "
            f"found {len(frames)} frames, {len(captions)} captions, {columns} columns"
        )
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    cell_height = max(1, round(cell_width * max(f.shape[0] / f.shape[1] for f in frames)))
    cell_height = min(cell_height, 2 * cell_width)
    font, title_font = text_font(_FONT_SIZE), text_font(_FONT_SIZE + 4)
    gap, line = max(6, cell_width // 20), _FONT_SIZE + 10
    top = gap + (_FONT_SIZE + 4 + gap if title else 0)
    width = gap + columns * (cell_width + gap)
    sheet = Image.new("RGB", (width, top + rows * (cell_height + line + gap // 2)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, gap), fit_text(title, width - 2 * gap, title_font), _INK, title_font)
    for number, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
        x = gap + number % columns * (cell_width + gap)
        y = top + number // columns * (cell_height + line + gap // 2)
        picture = _shrink(frame, cell_width, cell_height)
        sheet.paste(picture, (x + (cell_width - picture.width) // 2, y + cell_height - picture.height))
        text = fit_text(caption, cell_width, font)
        draw.text((x + cell_width / 2, y + cell_height + 4), text, _INK, font, anchor="ma")
    return sheet


def _step(duration_s: float, most: int) -> float:
    """The smallest round step in seconds that marks a duration at most ``most`` times."""
    steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200]
    return next((s for s in steps if duration_s / s <= most), duration_s / most)


def clock(time_s: float, step_s: float = 1.0) -> str:
    """A time as ``m:ss`` or ``h:mm:ss``, with a decimal where marks stand closer than a second."""
    sign, tenths = ("-" if time_s < 0 else ""), round(abs(time_s) * 10)
    seconds, tenth = divmod(tenths, 10)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    decimal = f".{tenth}" if step_s < 1 else ""
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{sign}{head}:{seconds:02d}{decimal}"


def timeline(
    duration_s: float,
    times: Sequence[float] | FloatArray,
    spans: Sequence[Span] = (),
    *,
    start_s: float = 0.0,
    width: int = 1000,
    title: str = "",
) -> Image.Image:
    """A bar for the whole video with a tick at each picked time and the evidence spans shaded.

    Args:
        duration_s: length of the video in seconds, above 0.
        times: picked times in seconds.
        spans: stretches to shade; a very short one is still drawn a few pixels wide.
        start_s: time of the bar's left end, for videos that do not start at 0.
        width: of the picture, in pixels.
        title: a line above the bar; empty for none.

    Raises:
        RefocusError: the duration is not above 0, or a picked time lies outside the video.
    """
    if not duration_s > 0:
        raise RefocusError(f"a timeline needs a duration above 0 seconds, found {duration_s}")
    end_s = start_s + duration_s
    outside = [float(t) for t in times if not start_s <= t <= end_s]
    if outside:
        raise RefocusError(f"the timeline runs from {start_s} to {end_s} s, found picked times {outside[:3]}")
    font, title_font = text_font(_FONT_SIZE), text_font(_FONT_SIZE + 4)
    margin, bar, overhang = 28, 22, 7
    top = 12 + (_FONT_SIZE + 16 if title else 0) + overhang
    image = Image.new("RGB", (width, top + bar + overhang + _FONT_SIZE + 18), _BACKGROUND)
    draw = ImageDraw.Draw(image)

    def column(time_s: float) -> int:
        place = min(max((time_s - start_s) / duration_s, 0.0), 1.0)
        return margin + round(place * (width - 2 * margin - 1))

    if title:
        draw.text((margin, 10), fit_text(title, width - 2 * margin, title_font), _INK, title_font)
    draw.rectangle((margin, top, width - margin - 1, top + bar), _BAR)
    for span in spans:
        if span.end_s >= start_s and span.start_s <= end_s:
            left = column(span.start_s)
            draw.rectangle((left, top, max(left + 3, column(span.end_s)), top + bar), _SPAN)
    draw.rectangle((margin, top, width - margin - 1, top + bar), outline=_RULE)
    for time in times:
        x = column(float(time))
        draw.rectangle((x - 1, top - overhang, x, top + bar + overhang), _TICK)
    _draw_scale(draw, column, start_s, end_s, y=top + bar + overhang, font=font, most=(width - 2 * margin) // 90)
    return image


def heat_map(
    times: FloatArray,
    distributions: FloatArray,
    picks: IntArray,
    *,
    notes: Sequence[str] = (),
    width: int = 1000,
    title: str = "",
) -> Image.Image:
    """A row for each pick, from the first down: how probable every candidate was, over the time of the video.

    All rows, and all pictures, have one scale, from 0 to 1 by the square root of the probability; a legend shows it. The
    picked candidate is framed. Candidates that share a pixel show the most probable of them.

    Args:
        times: of the candidates in seconds, (F,), non-decreasing.
        distributions: probability of every candidate at each pick, (K, F).
        picks: the picked candidates, (K,).
        notes: a text to the right of each row; none at all, or K of them.
        width: of the picture, in pixels.
        title: a line above the rows; empty for none.

    Raises:
        RefocusError: shapes do not fit each other, or there is nothing to draw.
    """
    if not len(picks) or distributions.shape != (len(picks), len(times)) or len(notes) not in {0, len(picks)}:
        raise RefocusError(
            f"a heat map needs picks, a probability of each candidate at each, and a note for each or none; found "
            f"{len(picks)} picks, {distributions.shape} probabilities, {len(times)} times, {len(notes)} notes"
        )
    font, title_font = text_font(_FONT_SIZE), text_font(_FONT_SIZE + 4)
    rank_width, note_width = (
        ceil(max(map(font.getlength, texts), default=0)) + 8
        for texts in ([f"{k + 1}." for k in range(len(picks))], notes)
    )
    row, gap, margin = _FONT_SIZE + 7, 3, 16
    left, right = margin + rank_width, width - margin - note_width
    top = 12 + (_FONT_SIZE + 16 if title else 0)
    bottom = top + len(picks) * (row + gap)
    legend = bottom + _FONT_SIZE + 20
    image = Image.new("RGB", (width, legend + _FONT_SIZE + 12), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((margin, 10), fit_text(title, width - 2 * margin, title_font), _INK, title_font)

    # Each candidate reaches half-way to its neighbours; the outer ones as far outwards as inwards.
    middles = (times[:-1] + times[1:]) / 2
    outer = (2 * times[[0, -1]] - middles[[0, -1]]) if len(middles) else times[[0, 0]] + (-0.5, 0.5)
    edges = np.concatenate([outer[:1], middles, outer[1:]])  # (F + 1,)
    start_s, end_s = float(edges[0]), float(edges[-1])

    def column(time_s: float) -> int:
        return left + round((time_s - start_s) / max(end_s - start_s, 1e-9) * (right - left))

    columns = [column(float(edge)) for edge in edges]
    boxes = [(a, max(a + 1, b) - 1) for a, b in pairwise(columns)]  # first and last pixel
    for k, (distribution, pick) in enumerate(zip(distributions, picks, strict=True)):
        y = top + k * (row + gap)
        draw.text((left - 8, y + row / 2), f"{k + 1}.", _FAINT, font, anchor="rm")
        draw.rectangle((left, y, right - 1, y + row - 1), _HEAT[0])
        strengths = np.sqrt(distribution)
        for f in np.argsort(strengths, kind="stable"):  # the most probable last, on top
            draw.rectangle((boxes[f][0], y, boxes[f][1], y + row - 1), _heat(float(strengths[f])))
        a, b = boxes[int(pick)]
        draw.rectangle((a - 2, y - 1, b + 2, y + row), outline=_TICK, width=2)
        if notes:
            draw.text((right + 8, y + row / 2), notes[k], _INK, font, anchor="lm")
    _draw_scale(draw, column, start_s, end_s, y=bottom, font=font, most=(right - left) // 90)
    _draw_legend(draw, left, legend, font)
    return image


def _draw_legend(draw: ImageDraw.ImageDraw, x: float, y: int, font: Font) -> None:
    """Which colour of a heat map is which probability."""
    draw.text((x, y), "probability", _FAINT, font)
    x += font.getlength("probability") + 12
    for probability in (0, 0.01, 0.1, 0.5, 1):
        draw.rectangle((x, y, x + _FONT_SIZE, y + _FONT_SIZE), _heat(probability**0.5), _RULE)
        draw.text((x + _FONT_SIZE + 5, y), f"{probability:g}", _FAINT, font)
        x += _FONT_SIZE + 17 + font.getlength(f"{probability:g}")


def _heat(strength: float) -> tuple[int, int, int]:
    """The colour between the three of :data:`_HEAT` for a number in 0..1."""
    place = min(max(strength, 0.0), 1.0) * (len(_HEAT) - 1)
    first = min(int(place), len(_HEAT) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - first)) for a, b in zip(_HEAT[first], _HEAT[first + 1], strict=True)
    )
    return red, green, blue


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    column: Callable[[float], int],
    start_s: float,
    end_s: float,
    *,
    y: int,
    font: Font,
    most: int,
) -> None:
    """Round times under the bar, as many as fit."""
    step = _step(end_s - start_s, max(1, most))
    for number in range(ceil(start_s / step - 1e-9), floor(end_s / step + 1e-9) + 1):
        x = column(number * step)
        draw.line((x, y, x, y + 3), _FAINT)
        draw.text((x, y + 6), clock(number * step, step), _FAINT, font, anchor="ma")


def check_target(path: Path) -> str:
    """The image format of a file to be written.

    Raises:
        RefocusError: the folder is missing, or the name has no known image ending.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise RefocusError(f"cannot tell an image format from {path.name!r}; end the name in .png or .jpg")
    if not path.parent.is_dir():
        raise RefocusError(f"no folder at {path.parent} to write {path.name} into")
    if path.is_dir():
        raise RefocusError(f"{path} is a folder; give the name of an image file")
    return kind


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image whole or not at all; the format follows the file name.

    Raises:
        RefocusError: the folder is missing, or the name has no known image ending.
    """
    path = Path(path)
    kind = check_target(path)
    with replacing(path) as temporary:
        image.save(temporary, format=kind)
