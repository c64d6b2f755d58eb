"""Video-MME: Parquet, or JSON as a flat list of questions or as a list of videos with their ``questions``."""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.options import without_letters
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, as_row, files_of, rows_of


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with four options; files are named by their YouTube id (``videoID``), in some copies by ``video_id``."""
    for path in files_of(annotations, "*.parquet", "*.json"):
        for row in rows_of(path):
            for question in _questions(row):
                yield _record(question)


def _questions(row: Row) -> Iterator[Row]:
    if "questions" not in row.values:
        yield row
        return
    if not isinstance(row.values["questions"], list):
        raise row.wrong("questions", "a list of objects")
    for number, value in enumerate(row.values["questions"], start=1):
        where = f"{row.where}, question {number}"
        yield Row(where, {**row.values, **as_row(value, where).values})


def _record(row: Row) -> Record | Unusable:
    options = without_letters(row.texts("options" if row.given("options") else "choices"))
    names = [row.name(field) for field in ("videoID", "video_id") if row.given(field)]
    return make(
        row.name("question_id"),
        tuple(names) or (row.name("videoID"),),
        row.text("question"),
        options=options,
        answer=row.letter("answer", options) if row.given("answer") else None,
        question_type=row.text("task_type") if row.given("task_type") else "",
        metadata=row.pick("duration", "domain", "sub_category"),
    )
