"""NExT-QA: CSV with options ``a0`` to ``a4``, or of the open-ended questions, with their answers in words; and NExT-GQA.

The official files name a video in the column ``video``, copies and NExT-GQA in ``video_id``. NExT-QA gives the answer's position,
NExT-GQA its text, and the evidence spans in ``gsub_<split>.json`` beside the file. ``map_vid_vidorID.json`` beside it says in
which folder a video lies. The open-ended files have a second right answer to some questions (``additional_ref_answer``).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, load_json, rows_of, whole
from refocus_video.errors import DataError
from refocus_video.types import Span

Spans = Mapping[str, tuple[Span, ...]]
"""Evidence by ``video_id`` and ``qid``, joined by an underscore."""

ANSWERS = ("answer", "additional_ref_answer")
"""Columns with right answers to an open-ended question, the best first."""


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with five options or none about short videos; ids are ``<video>_<qid>``."""
    for path in files_of(annotations, "*.csv"):
        rows = list(rows_of(path))
        # A text may be a digit as well: whether a file holds positions is seen from all its rows.
        positions = all(whole(row.values.get("answer")) in range(5) for row in rows if row.given("answer"))
        spans, folders = _spans(path), _folders(path)
        for row in rows:
            yield _record(row, positions, spans, folders)


def _record(row: Row, positions: bool, spans: Spans, folders: Mapping[str, str]) -> Record | Unusable:
    options = tuple(row.name(f"a{i}") for i in range(5)) if "a0" in row.values else ()
    video = row.name("video" if "video" in row.values else "video_id")
    key = f"{video}_{row.name('qid')}"
    return make(
        key,
        (folders[video], video) if video in folders else (video,),
        row.text("question"),
        options=options,
        answer=_answer(row, options, positions),
        accepted=() if options else tuple(row.name(field) for field in ANSWERS if row.given(field)),
        evidence=spans.get(key, ()),
        question_type=row.text("type"),
        metadata=row.pick("frame_count"),
    )


def _answer(row: Row, options: tuple[str, ...], positions: bool) -> int | None:
    if not row.given("answer"):
        return None
    if not options:
        return 0
    return row.position("answer", options) if positions else row.option("answer", options)


def _folders(path: Path) -> dict[str, str]:
    found = path.with_name("map_vid_vidorID.json")
    if not found.exists():
        return {}
    folders = load_json(found)
    if not isinstance(folders, dict):
        raise DataError(f"{found}: expected an object of video ids and paths, found {type(folders).__name__}")
    return {str(video): str(place) for video, place in folders.items()}


def _spans(path: Path) -> dict[str, tuple[Span, ...]]:
    # The file may have been renamed, as nextqa_val.csv; its split is the last word.
    found = path.with_name(f"gsub_{path.stem.rpartition('_')[2]}.json")
    if not found.exists():
        return {}
    videos = load_json(found)
    if not isinstance(videos, dict):
        raise DataError(f"{found}: expected an object of video ids and spans, found {type(videos).__name__}")
    spans: dict[str, tuple[Span, ...]] = {}
    for video, about in videos.items():
        located = about.get("location") if isinstance(about, dict) else None
        if not isinstance(located, dict):
            raise DataError(f"{found}, video {video!r}, field 'location': expected spans by qid, found {located!r}")
        for qid, stretches in located.items():
            spans[f"{video}_{qid}"] = _checked(stretches, f"{found}, video {video!r}, field 'location', qid {qid!r}")
    return spans


def _checked(stretches: Any, where: str) -> tuple[Span, ...]:
    try:
        return tuple(Span(float(start), float(end)) for start, end in stretches)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: expected a list of [start_s, end_s], found {stretches!r} ({error})") from None
