"""LVBench: ``video_info.meta.jsonl``, one video a line with its questions; ``time_reference`` says where the evidence lies.

Times are given in whole seconds, so a stretch ends with the second that it names; the two ends of a few are in the wrong order.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.options import split_options
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, as_row, files_of, rows_of
from refocus_video.types import Span

_STRETCH = re.compile(r"((?:\d+:)?\d+:\d+)\s*-\s*((?:\d+:)?\d+:\d+)")


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with four options, listed in the text; files are named by their YouTube id (``key``)."""
    for path in files_of(annotations, "*.jsonl"):
        for video in rows_of(path):
            if not isinstance(video.values.get("qa"), list):
                raise video.wrong("qa", "a list of objects")
            for number, value in enumerate(video.values["qa"], start=1):
                yield _record(as_row(value, f"{video.where}, qa {number}"), video)


def _record(row: Row, video: Row) -> Record | Unusable:
    question, options = split_options(row.text("question"))
    if not options:
        raise row.wrong("question", "a question with lettered options below it")
    kinds = row.texts("question_type") if row.given("question_type") else ()
    return make(
        row.name("uid"),
        (video.name("key"),),
        question,
        options=options,
        answer=row.letter("answer", options) if row.given("answer") else None,
        evidence=_evidence(row) if row.given("time_reference") else (),
        question_type=", ".join(kinds),
        metadata={**video.pick("type"), **row.pick("time_reference")},
    )


def _evidence(row: Row) -> tuple[Span, ...]:
    text = row.text("time_reference")
    parts = [_STRETCH.fullmatch(part.strip()) for part in re.split("[,;]", text)]
    spans = []
    for part in parts:
        if part is None:
            raise row.wrong("time_reference", "stretches such as 04:19-08:41")
        start, end = sorted(_seconds(stamp) for stamp in part.groups())
        spans.append(Span(start, end + 1.0))
    return tuple(spans)


def _seconds(stamp: str) -> float:
    seconds = 0
    for part in stamp.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)
