"""LLaVA-Video-178K, multiple choice: JSON of conversations, with the options in the text of each question.

A conversation may hold several questions, and open-ended ones between them; these have no lettered answer and are unusable here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refocus_video.data.datasets.options import split_options
from refocus_video.data.datasets.record import Record, Unusable, make
from refocus_video.data.datasets.rows import Row, files_of, rows_of

TAILS = (
    "Please provide your answer by stating the letter followed by the full option.",
    "Please respond with only the letter of the correct answer.",
)
"""How a question says which form its answer has; not part of it."""


def read(annotations: Path) -> Iterator[Record | Unusable]:
    """Questions of every conversation; of a folder, those of the files with ``_mc_`` in their name. Ids end in the turn."""
    for path in files_of(annotations, "*_mc_*.json", "*_mc_*.parquet"):
        for row in rows_of(path):
            yield from _records(row)


def _records(row: Row) -> Iterator[Record | Unusable]:
    turns = row.values.get("conversations")
    if not isinstance(turns, list) or len(turns) % 2 or not turns:
        raise row.wrong("conversations", "questions and answers in turn")
    for number in range(0, len(turns), 2):
        where = f"{row.where}, turn {number + 1}"
        yield _record(
            row, f"{row.name('id')}-{number // 2}", _said(turns[number], "human", where), turns[number + 1], where
        )


def _record(row: Row, id: str, asked: Row, answered: Any, where: str) -> Record | Unusable:
    text = asked.text("value").replace("<image>", "").strip()
    for tail in TAILS:
        text = text.removesuffix(tail).strip()
    question, options = split_options(text)
    if not options:
        return Unusable(id, "no lettered options in the text")
    return make(
        id,
        (row.text("video"),),
        question,
        options=options,
        answer=_said(answered, "gpt", where).letter("value", options),
        question_type=row.text("data_source") if row.given("data_source") else "",
    )


def _said(turn: Any, speaker: str, where: str) -> Row:
    found = Row(where, turn if isinstance(turn, dict) else {"from": turn})
    if found.values.get("from") != speaker:
        raise found.wrong("from", f"{speaker!r}")
    return found
