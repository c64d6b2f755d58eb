"""LongVideoBench: JSON with a list of ``candidates``, or Parquet with ``option0`` to ``option4`` (unused ones hold "N/A").

The JSON file has ``position``: up to a few numbers a question that fit frame indices of the source video in size. The authors have
not said what they are; they are read as the frames that hold the evidence.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with two to five options; the path of the subtitles is kept in the metadata."""
    for path in files_of(annotations, "*.parquet", "*.json"):
        for row in rows_of(path):
            yield _record(row)


def _record(row: Row) -> Record | Unusable:
    options = _options(row)
    return make(
        row.name("id"),
        (row.text("video_path"),),
        row.text("question"),
        options=options,
        answer=row.position("correct_choice", options) if row.given("correct_choice") else None,
        question_type=row.text("question_category") if row.given("question_category") else "",
        metadata=row.pick(
            "subtitle_path", "starting_timestamp_for_subtitles", "duration", "duration_group", "level", "topic_category", "position"
        ),
        frames=_frames(row),
    )  # fmt: skip


def _options(row: Row) -> tuple[str, ...]:
    if "candidates" in row.values:
        return row.texts("candidates")
    fields = sorted(field for field in row.values if field.startswith("option") and field[6:].isdecimal())
    return tuple(row.text(field) for field in fields if row.given(field) and row.values[field] != "N/A")


def _frames(row: Row) -> tuple[int, ...]:
    values = row.values.get("position") or []
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise row.wrong("position", "a list of frame indices")
    return tuple(values)
