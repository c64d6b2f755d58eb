"""PerceptionTest, multiple choice: JSON of videos with their ``mc_question``, or Parquet with a row a question.

Read from the published description of the format; not tried on the real files.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, as_row, files_of, load_json, rows_of
from refocus_video.errors import DataError


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with three options; ids are ``<video>_<number>``."""
    for path in files_of(annotations, "*mc_question*.json", "*.parquet"):
        for row in _rows(path):
            yield _record(row)


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() != ".json":
        yield from rows_of(path)
        return
    videos = load_json(path)
    if not isinstance(videos, dict):
        raise DataError(f"{path}: expected an object of videos and their questions, found {type(videos).__name__}")
    for video, value in videos.items():
        about = as_row(value, f"{path}, video {video!r}")
        if not isinstance(about.values.get("mc_question"), list):
            raise about.wrong("mc_question", "a list of objects")
        for number, question in enumerate(about.values["mc_question"], start=1):
            row = as_row(question, f"{about.where}, mc_question {number}")
            yield Row(row.where, {"video_name": video, "question_id": row.values.get("id"), **row.values})


def _record(row: Row) -> Record | Unusable:
    options, video = row.texts("options"), row.name("video_name")
    return make(
        f"{video}_{row.name('question_id')}",
        (video,),
        row.text("question"),
        options=options,
        answer=row.position("answer_id", options) if row.given("answer_id") else None,
        question_type=row.text("area") if row.given("area") else "",
        metadata=row.pick("reasoning", "tag"),
    )
