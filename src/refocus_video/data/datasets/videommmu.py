"""Video-MMMU: Parquet of the tracks Perception, Comprehension and Adaptation.

Most questions of the last are about a picture beside the video (``<image 1>`` in the text), which no model is shown here: they are
left out and counted, not asked without it. A few of its questions are open-ended.
"""

from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.options import without_letters
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions of one track; a file is named by the question's id."""
    for path in files_of(annotations, "*.parquet", "*.json", "*.jsonl"):
        for row in rows_of(path, without=("image",)):
            yield _record(row)


def _record(row: Row) -> Record | Unusable:
    name, question = row.name("id"), row.text("question")
    if "<image" in question:
        return Unusable(name, "about a picture beside the video, which is not shown")
    options = without_letters(row.texts("options")) if row.values.get("options") else ()
    answer = None if not row.given("answer") else row.letter("answer", options) if options else 0
    return make(
        name,
        (name,),
        question,
        options=options,
        answer=answer,
        accepted=() if options or answer is None else (row.name("answer"),),
        question_type=row.text("question_type") if row.given("question_type") else "",
        metadata={"subject": "_".join(name.split("_")[1:-1]) or None},
    )
