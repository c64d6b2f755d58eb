"""TempCompass, multiple choice: JSON of videos with questions by aspect (``multi-choice.json``), or Parquet with a row a question.

The options stand in the text of the question, below it. Read from the published description of the format; not tried on the real
files.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.options import split_options
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, as_row, files_of, load_json, rows_of
from refocus_video.errors import DataError


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with lettered options; the type is the aspect, ids are ``<video>-<aspect>-<number>``."""
    for path in files_of(annotations, "*multi-choice*.json", "*multi-choice*.parquet"):
        rows = _json_rows(path) if path.suffix.lower() == ".json" else rows_of(path)
        for number, row in enumerate(rows, start=1):
            yield _record(row, number)


def _json_rows(path: Path) -> Iterator[Row]:
    videos = load_json(path)
    if not isinstance(videos, dict):
        raise DataError(f"{path}: expected an object of videos and their questions, found {type(videos).__name__}")
    for video, value in videos.items():
        about = as_row(value, f"{path}, video {video!r}")
        for aspect, questions in about.values.items():
            if not isinstance(questions, list):
                raise about.wrong(aspect, "a list of objects")
            for number, question in enumerate(questions, start=1):
                row = as_row(question, f"{about.where}, {aspect} {number}")
                yield Row(row.where, {**row.values, "video_id": video, "dim": aspect})


def _record(row: Row, number: int) -> Record | Unusable:
    question, options = split_options(row.text("question"))
    if not options:
        raise row.wrong("question", "a question with lettered options below it")
    video, aspect = row.name("video_id"), row.text("dim") if row.given("dim") else ""
    return make(
        f"{video}-{aspect}-{number}",
        (video,),
        question,
        options=options,
        answer=row.letter("answer", options) if row.given("answer") else None,
        question_type=aspect,
    )
