"""ActivityNet-QA: open-ended questions in ``<split>_q.json`` and their answers in ``<split>_a.json``; or Parquet with both.

Of a folder, every split is read.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of
from refocus_video.errors import DataError

TYPES = ("motion", "spatial", "temporal", "yes/no", "color", "object", "location", "number", "other")


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Open-ended questions; a file is called ``v_`` and the YouTube id (``video_name``), in some copies the id alone."""
    for path in files_of(annotations, "*_q.json", "*.parquet"):
        answers = _answers(path) if path.stem.endswith("_q") else {}
        for row in rows_of(path):
            yield _record(row, answers.get(row.name("question_id"), row))


def _record(row: Row, answer: Row) -> Record | Unusable:
    video = row.name("video_name").removeprefix("v_")
    kind = answer.integer("type") if answer.given("type") else None
    if kind is not None and not 0 <= kind < len(TYPES):
        raise answer.wrong("type", f"a number from 0 to {len(TYPES) - 1}")
    return make(
        row.name("question_id"),
        (f"v_{video}", video),
        row.text("question"),
        answer=0 if answer.given("answer") else None,
        accepted=(answer.name("answer"),) if answer.given("answer") else (),
        question_type="" if kind is None else TYPES[kind],
    )


def _answers(questions: Path) -> dict[str, Row]:
    path = questions.with_name(f"{questions.stem.removesuffix('_q')}_a{questions.suffix}")
    if not path.is_file():
        raise DataError(f"no answers to {questions.name} at {path}; the two files belong side by side")
    return {row.name("question_id"): row for row in rows_of(path)}
