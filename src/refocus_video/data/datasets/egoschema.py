"""EgoSchema: ``questions.json`` with ``option 0`` to ``option 4``, or Parquet; answers for 500 of 5 031 questions.

JSON and the larger Parquet file keep the answers back; those that are public lie in ``subset_answers.json`` beside it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refocus_video.data.datasets.options import without_letters
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, load_json, rows_of
from refocus_video.errors import DataError


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions with five options about clips of three minutes, named by their id; those without an answer are unusable."""
    path = annotations / "questions.json" if annotations.is_dir() else annotations
    answers = _answers(path.parent)
    for row in rows_of(path):
        yield _record(row, answers)


def _record(row: Row, answers: Mapping[str, Any]) -> Record | Unusable:
    video = row.name("q_uid" if row.given("q_uid") else "video_idx")
    listed = row.texts("option") if row.given("option") else tuple(row.text(f"option {i}") for i in range(5))
    options = without_letters(listed)
    known = row if row.given("answer") else Row(row.where, {"answer": answers.get(video)})
    return make(
        row.name("question_idx") if row.given("question_idx") else video,
        (video,),
        row.text("question"),
        options=options,
        answer=known.position("answer", options) if known.given("answer") else None,
    )


def _answers(folder: Path) -> dict[str, Any]:
    found = sorted(folder.glob("*subset_answers.json"))
    if len(found) > 1:
        raise DataError(f"{folder}: holds several files of answers: {', '.join(path.name for path in found)}; keep one")
    answers = load_json(found[0]) if found else {}
    if not isinstance(answers, dict):
        raise DataError(f"{found[0]}: expected an object of ids and positions, found {type(answers).__name__}")
    return answers
