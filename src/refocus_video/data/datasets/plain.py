"""Questions of one's own: JSONL as :mod:`refocus_video.data.examples` reads it, or a CSV file with the same columns.

Fields that are not known become metadata, an id that is missing is made from file and row, and letters in front of all options
are left away. In a CSV file the options stand in columns whose names begin with ``option`` (or in one, ``options``, as a JSON
list); ``answers`` and ``evidence`` are JSON lists.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refocus_video.data.datasets.options import without_letters
from refocus_video.data.datasets.record import Record, Unusable
from refocus_video.data.datasets.rows import Row, csv_rows, files_of, jsonl_rows
from refocus_video.data.examples import FIELDS, parse_example

LISTS = ("options", "answers", "evidence")


def read_jsonl(annotations: Path) -> Iterator[Record | Unusable]:
    """One question a line."""
    for path in files_of(annotations, "*.jsonl"):
        for number, row in enumerate(jsonl_rows(path), start=1):
            yield _record(row.where, row.values, f"{path.stem}-{number}")


def read_csv(annotations: Path) -> Iterator[Record | Unusable]:
    """One question a row; the answer is an option's text, its letter or its position."""
    for path in files_of(annotations, "*.csv"):
        for number, row in enumerate(csv_rows(path), start=1):
            yield _record(row.where, _typed(row), f"{path.stem}-{number}")


def _record(where: str, values: Mapping[str, Any], id: str) -> Record:
    known = {"id": id, **{key: value for key, value in values.items() if key in FIELDS and value is not None}}
    options = known.get("options")
    if isinstance(options, list) and all(isinstance(option, str) for option in options):
        known["options"] = list(without_letters(tuple(options)))
        if known.get("answer") in options:
            known["answer"] = options.index(known["answer"])
    if "type" in values and "question_type" not in values:
        known["question_type"] = values["type"]
    other = {key: value for key, value in values.items() if key not in (*FIELDS, "type")}
    if other:
        known["metadata"] = {**known.get("metadata", {}), **other}
    example = parse_example(known, where, Path())
    return Record(example, (example.video,))


def _typed(row: Row) -> dict[str, Any]:
    """What the texts of a CSV row stand for."""
    values: dict[str, Any] = {key: value for key, value in row.values.items() if value != ""}
    for key in (*LISTS, "metadata"):
        if key in values:
            try:
                values[key] = json.loads(values[key])
            except json.JSONDecodeError:
                raise row.wrong(key, "JSON") from None
    columns = [key for key in values if key.startswith("option") and key != "options"]
    if columns:
        values["options"] = [values.pop(key) for key in columns]
    answer = values.get("answer", "")
    if isinstance(answer, str) and answer.isdecimal() and answer not in values.get("options", [answer]):
        values["answer"] = int(answer)
    return values
