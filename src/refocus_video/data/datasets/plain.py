"""Questions of one's own: JSONL as :mod:`refocus_video.data.examples` reads it, or a CSV file with the same columns.

Fields that are not known become metadata, an id that is missing is made from file and row, one that is a number is written out,
an answer may be a lower-case letter or ``2.0``, and letters in front of all options are left away. In a CSV file the options stand
in columns whose names begin with ``option``, an empty cell of which is no option (or in one, ``options``, as a JSON list);
``answers`` and ``evidence`` are JSON lists.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refocus_video.data.checked_json import parse
from refocus_video.data.datasets.options import without_letters
from refocus_video.data.datasets.record import Record, Unusable
from refocus_video.data.datasets.rows import Row, csv_rows, files_of, jsonl_rows, whole
from refocus_video.data.examples import FIELDS, parse_example
from refocus_video.errors import DataError

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
    if type(known["id"]) is int:
        known["id"] = str(known["id"])
    options = known.get("options")
    if isinstance(options, list) and all(isinstance(option, str) for option in options):
        known["options"] = list(without_letters(tuple(options)))
        known["answer"] = _answer(known.get("answer"), options, known["options"])
    if "type" in values and "question_type" not in values:
        known["question_type"] = values["type"]
    other = {key: value for key, value in values.items() if key not in (*FIELDS, "type")}
    if other:
        known["metadata"] = {**known.get("metadata", {}), **other}
    example = parse_example(known, where, Path())
    return Record(example, (example.video,))


def _answer(answer: Any, written: list[str], bare: list[str]) -> Any:
    """What stands for the right option, as :func:`parse_example` takes it: an option's text before all that it may mean else."""
    if answer in written:
        return written.index(answer)
    if isinstance(answer, float) and answer.is_integer():
        return int(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer not in bare:
        return answer.upper()
    return answer


def _typed(row: Row) -> dict[str, Any]:
    """What the texts of a CSV row stand for."""
    values: dict[str, Any] = {key: value for key, value in row.values.items() if value != ""}
    for key in (*LISTS, "metadata"):
        if key in values:
            try:
                values[key] = parse(values[key], row.where)
            except DataError:
                raise row.wrong(key, "JSON") from None
    columns = [key for key in row.values if key.startswith("option") and key != "options"]
    answer = values.get("answer", "")
    if any(key in values for key in columns):
        cells = [values.pop(key, "") for key in columns]
        values["options"] = [cell for cell in cells if cell]
        if (place := _column(answer, cells)) is not None:
            # Position and letter count the columns, those that are empty as well.
            if place >= len(cells) or not cells[place]:
                raise row.wrong("answer", f"one of the {len(values['options'])} options that are not empty")
            values["answer"] = len([cell for cell in cells[:place] if cell])
    elif isinstance(answer, str) and "options" in values and answer not in values["options"]:
        values["answer"] = answer if (number := whole(answer)) is None else number
    return values


def _column(answer: str, cells: list[str]) -> int | None:
    """Which column an answer names by position or letter; None where it is a text."""
    if answer in cells or not answer:
        return None
    if (number := whole(answer)) is not None:
        return number
    return ord(answer.upper()) - ord("A") if len(answer) == 1 and answer.isascii() and answer.isalpha() else None
