"""MVBench: one JSON file a task (``action_antonym.json``), with the answer's text.

Where a question is about a part of its video, ``start`` and ``end`` say which in seconds: they are kept in the metadata, and the
video is not cut. Read from the published description of the format; not tried on the real files.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions of all tasks of a folder, or of one file; the type is the task, ids are ``<task>-<row>``."""
    for path in files_of(annotations, "*.json"):
        for number, row in enumerate(rows_of(path), start=1):
            yield _record(row, path.stem, number)


def _record(row: Row, task: str, number: int) -> Record | Unusable:
    options = row.texts("candidates")
    return make(
        f"{task}-{number}",
        (row.name("video"),),
        row.text("question"),
        options=options,
        answer=row.option("answer", options) if row.given("answer") else None,
        question_type=task,
        metadata=row.pick("start", "end"),
    )
