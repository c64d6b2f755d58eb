"""MLVU: one JSON file a task (``1_plotQA.json``, videos in a folder of that name), or Parquet and JSON with all tasks.

The first has the answer's text, the second its letter and the options once more in the text of the question. Tasks without
``candidates`` (sub-scene captioning, summary) are open-ended.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.options import split_options, without_letters
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions of all tasks of a folder, or of one file."""
    for path in files_of(annotations, "*.json", "*.parquet"):
        for number, row in enumerate(rows_of(path), start=1):
            yield _record(row, path.stem, number)


def _record(row: Row, task: str, number: int) -> Record | Unusable:
    name = row.text("video" if row.given("video") else "video_name")
    # A task's file is called as the folder of its videos, and the same name may stand for other videos in other tasks.
    videos = (f"{task}/{name}", f"./{name}") if task[0].isdecimal() else (name,)
    options = without_letters(row.texts("candidates")) if row.given("candidates") else ()
    question, listed = split_options(row.text("question"))
    kind = next((field for field in ("question_type", "task_type") if row.given(field)), None)
    return make(
        row.name("question_id") if row.given("question_id") else f"{task}-{number}",
        videos,
        question if listed == options else row.text("question"),
        options=options,
        answer=_answer(row, options) if row.given("answer") else None,
        accepted=() if options or not row.given("answer") else (row.text("answer"),),
        question_type=row.text(kind) if kind else "",
        metadata=row.pick("duration"),
    )


def _answer(row: Row, options: tuple[str, ...]) -> int:
    if not options:
        return 0
    answer = row.name("answer")
    return options.index(answer) if answer in options else row.letter("answer", options)
