"""Single questions as HTML: what was asked, where the evidence is, which frames were picked, what was answered.

Pictures are decoded from the video at their own size, shrunk only where very large, and stored in the page.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refocus_video.evaluate.figure import css_colour
from refocus_video.evaluate.metrics import Table, is_correct
from refocus_video.evaluate.plots import style_of
from refocus_video.types import ByteArray, Span
from refocus_video.video.reader import VideoReader
from refocus_video.video.sheet import clock

Row = dict[str, Any]

_MOST_PIXELS = 320  # width of a stored picture; larger ones would only make the page heavy


@dataclass(frozen=True, slots=True)
class Case:
    """A question worth showing, and why."""

    why: str
    first: Row
    """The policy's row."""
    second: Row
    """Uniform's row, or the policy's row for another question of the same video."""


def choose_cases(table: Table, budget: int) -> list[Case]:
    """Cases by fixed rules, so that nobody picks them by eye: wins, one video with two questions, a failure, the first.

    Args:
        table: rows as :func:`refocus_video.evaluate.metrics.tabulate` gives them; ``policy`` and ``uniform`` are used.
        budget: frames per question.
    """
    policy, uniform = table.get(("policy", budget), {}), table.get(("uniform", budget), {})
    order = sorted(key for key in policy.keys() & uniform.keys() if not policy[key]["error"])
    pairs = [(policy[key], uniform[key]) for key in order if not uniform[key]["error"]]
    cases = []
    for kind in sorted({row["question_type"] for row, _ in pairs}, reverse=True):
        wins = [(p, u) for p, u in pairs if p["question_type"] == kind and is_correct(p) and not is_correct(u)]
        if wins:
            best = max(wins, key=lambda pair: (pair[0]["recall"] or 0) - (pair[1]["recall"] or 0))
            cases.append(Case(f"The policy is right, uniform is wrong{f' ({kind})' if kind else ''}", *best))
    two = _two_questions([p for p, _ in pairs])
    if two:
        cases.append(Case(f"One video, two questions: {_compared(*two)}", *two))
    lost = [pair for pair in pairs if not is_correct(pair[0])]
    if lost:
        worst = min(lost, key=lambda pair: (not is_correct(pair[1]), pair[0]["recall"] or 0))
        cases.append(Case("Where the policy fails", *worst))
    if pairs and all(case.first is not pairs[0][0] for case in cases):
        cases.append(Case("The first question of the test set, whatever it shows", *pairs[0]))
    return cases


def _compared(a: Row, b: Row) -> str:
    """Whether the policy picked the same frames for two questions."""
    first, second = set(a["positions"]), set(b["positions"])
    if first == second:
        return "the policy picks the same frames"
    if shared := len(first & second):
        return f"{shared} of the frames that the policy picks {'is' if shared == 1 else 'are'} the same"
    return "the policy picks different frames"


def _two_questions(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Two questions of one video with different evidence: those answered right first, then the least overlap."""
    best: tuple[tuple[float, ...], Row, Row] | None = None
    for place, a in enumerate(rows):
        for b in rows[place + 1 :]:
            if a["video"] != b["video"] or a.get("evidence") == b.get("evidence"):
                continue
            shared = len(set(a["positions"]) & set(b["positions"]))
            recall = (a["recall"] or 0) + (b["recall"] or 0)
            key = (-is_correct(a) - is_correct(b), -recall, shared)
            if best is None or key < best[0]:
                best = key, a, b
    return best and (best[1], best[2])


def filmstrip_case(policy: Row, uniform: Row, reader: VideoReader, why: str = "") -> str:
    """One question with the frames of the policy and of uniform sampling.

    Args:
        policy: the policy's row of ``rows.jsonl``, with ``evidence``.
        uniform: uniform's row for the same question.
        reader: of the video.
        why: a heading.

    Raises:
        VideoError: a frame cannot be read.
    """
    spans = spans_of(policy)
    tracks = [Track(row["selector"], row["times"], spans) for row in (policy, uniform)]
    strips = "".join(strip(row, reader) for row in (policy, uniform))
    return _card(why, [policy], f"{ask(policy)}{timeline(reader, tracks)}<div class=strips>{strips}</div>")


def same_video_case(first: Row, second: Row, reader: VideoReader, why: str = "") -> str:
    """Two questions about one video with the frames of the policy for each. Arguments as :func:`filmstrip_case`."""
    tracks = [
        Track(name, row["times"], spans_of(row), row["selector"])
        for name, row in (("question A", first), ("question B", second))
    ]
    strips = "".join(
        f"<div>{ask(row, letter)}{strip(row, reader)}</div>" for letter, row in (("A", first), ("B", second))
    )
    return _card(why, [first, second], f"{timeline(reader, tracks)}<div class=strips>{strips}</div>")


def short_name(video: str) -> str:
    """The file and its folder: enough to find it, without the layout of the machine."""
    return "/".join(Path(video).parts[-2:])


def _card(why: str, rows: Sequence[Row], body: str) -> str:
    name = short_name(rows[0]["video"])
    kinds = " and ".join(dict.fromkeys(row["question_type"] for row in rows if row["question_type"]))
    kind = f" · {kinds}" if kinds else ""
    return f"<article class=case><h3>{escape(why)}</h3><p class=meta>{escape(name + kind)}</p>{body}</article>"


def ask(row: Row, letter: str = "") -> str:
    """The question and its options, the right one marked."""
    options = "".join(
        f"<li class=right>{escape(option)} <span class=tag>right answer</span></li>"
        if place == row["answer"]
        else f"<li>{escape(option)}</li>"
        for place, option in enumerate(row["options"])
    )
    mark = f"<span class=letter>{letter}</span> " if letter else ""
    return f"<p class=question>{mark}{escape(row['question'])}</p><ul class=options>{options}</ul>"


def strip(row: Row, reader: VideoReader) -> str:
    """The frames of one row in temporal order, those that hold evidence outlined, and the answer given."""
    style = style_of(row["selector"])
    indices = sorted(row["frame_indices"])
    spans = spans_of(row)
    figures = []
    for index, (_, picture) in zip(indices, reader.frames(np.array(indices, dtype=np.int64)), strict=True):
        time = float(reader.times[index])
        hits = [number for number, span in enumerate(spans, 1) if span.contains(time)]
        label = "evidence" + (f" {hits[0]}" if len(spans) > 1 else "") if hits else ""
        tag = f"<span class=tag>{label}</span>" if hits else ""
        figures.append(
            f"<figure class='frame{' hit' if hits else ''}'><img src='{data_uri(picture)}' alt='frame at {time:.2f} s'>"
            f"<figcaption>{time:.2f} s {tag}</figcaption></figure>"
        )
    recall = "" if row["recall"] is None else f" · evidence seen {100 * row['recall']:.0f} %"
    return (
        f"<section class=strip><h4><i style='background:{css_colour(style.colour)}'></i>{escape(style.label)}"
        f"<small>{recall}</small></h4><div class=frames>{''.join(figures)}</div>{answer_line(row)}</section>"
    )


def answer_line(row: Row) -> str:
    """What was answered, with ✓ or ✗."""
    written = row.get("text")
    if row["error"] or (row["predicted"] is None and written is None):
        return f"<p class='verdict wrong'>✗ no answer: {escape(row['error'] or 'none was given')}</p>"
    said = escape(str(written) if row["predicted"] is None else row["options"][row["predicted"]])
    if is_correct(row):
        return f"<p class='verdict right'>✓ answered “{said}”</p>"
    return f"<p class='verdict wrong'>✗ answered “{said}”</p>"


def spans_of(row: Row) -> list[Span]:
    """The evidence of a row in order of time; empty where none is known."""
    return sorted((Span(*ends) for ends in row.get("evidence") or ()), key=lambda span: span.start_s)


@dataclass(frozen=True, slots=True)
class Track:
    """One line of a timeline."""

    label: str
    times: Sequence[float]
    spans: Sequence[Span]
    selector: str = ""
    """Whose colour to use, if not that of ``label``."""


def timeline(reader: VideoReader, tracks: Sequence[Track]) -> str:
    """The whole video as a bar for each track, evidence shaded, picked times as ticks, seconds below; inline SVG."""
    left, right, height, gap = 108, 1010, 20, 12
    start, duration = float(reader.times[0]), reader.info.duration_s
    bottom = len(tracks) * (height + gap)

    def x(time: float) -> float:
        return left + (right - left) * min(max((time - start) / duration, 0.0), 1.0) if duration else left

    parts = []
    for place, track in enumerate(tracks):
        top = place * (height + gap) + gap / 2
        middle = top + height / 2 + 4
        colour = css_colour(style_of(track.selector or track.label).colour)
        parts.append(f"<text x='{left - 10}' y='{middle:.0f}' text-anchor='end'>{escape(track.label)}</text>")
        parts.append(f"<rect class=bar x='{left}' y='{top:.0f}' width='{right - left}' height='{height}' rx='3'/>")
        for span in track.spans:
            width = max(4.0, x(span.end_s) - x(span.start_s))
            parts.append(
                f"<rect class=span x='{x(span.start_s):.1f}' y='{top:.0f}' width='{width:.1f}' height='{height}'/>"
            )
        for time in track.times:
            parts.append(
                f"<rect x='{x(time) - 1.5:.1f}' y='{top - 4:.0f}' width='3' height='{height + 8}' rx='1' style='fill:{colour}'/>"
            )
    parts += [
        f"<text class=scale x='{x(start + duration * k / 8):.0f}' y='{bottom + 14}' text-anchor='middle'>"
        f"{clock(start + duration * k / 8, duration / 8)}</text>"
        for k in range(9)
    ]
    label = "; ".join(f"{t.label}: {', '.join(f'{time:.2f} s' for time in t.times)}" for t in tracks)
    return f"<svg class=timeline viewBox='0 0 1030 {bottom + 20}' role=img aria-label='{escape(label)}'>{''.join(parts)}</svg>"


def data_uri(picture: ByteArray) -> str:
    """A picture as a JPEG inside its own address."""
    image = Image.fromarray(picture)
    image.thumbnail((_MOST_PIXELS, 4 * _MOST_PIXELS), Image.Resampling.LANCZOS)
    with io.BytesIO() as buffer:
        image.save(buffer, format="JPEG", quality=90, subsampling=0)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
