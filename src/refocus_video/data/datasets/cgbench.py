"""CG-Bench: JSON of questions with ``choices``, the letter in ``right_answer`` and the clues in ``clue_intervals`` (seconds).

Read from the published description of the format; not tried on the real files.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of
from refocus_video.types import Span


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions about long videos, named by ``video_uid``; the clues are the evidence."""
    for path in files_of(annotations, "*.json", "*.parquet"):
        for row in rows_of(path):
            yield _record(row)


def _record(row: Row) -> Record | Unusable:
    options = row.texts("choices")
    return make(
        row.name("qid"),
        (row.name("video_uid"),),
        row.text("question"),
        options=options,
        answer=row.letter("right_answer", options) if row.given("right_answer") else None,
        evidence=_clues(row),
        question_type=row.text("sub_category") if row.given("sub_category") else "",
        metadata=row.pick("domain", "duration"),
    )


def _clues(row: Row) -> tuple[Span, ...]:
    clues = row.values.get("clue_intervals") or []
    try:
        return tuple(Span(float(start), float(end)) for start, end in clues)
    except (TypeError, ValueError):
        raise row.wrong("clue_intervals", "a list of [start_s, end_s]") from None
