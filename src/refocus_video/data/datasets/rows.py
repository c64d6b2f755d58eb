"""Rows of JSON, JSONL, CSV and Parquet files, and fields of rows: whatever is wrong is told by file, row and field."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from refocus_video.data.checked_json import PARQUET, check, parse
from refocus_video.errors import DataError, one_line, shortened

_LETTER = re.compile(r"\(?([A-Za-z])(?:[.):]|$)")

_WHOLE = re.compile(r"\s*(\d{1,18})(?:\.0+)?\s*")
SEPARATORS = ",;\t"
"""Of CSV files: whichever stands most often in the header line; the first of them where none does."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands."""

    where: str
    """File and row, as an error names them."""
    values: Mapping[str, Any]

    def wrong(self, field: str, expected: str) -> DataError:
        """The error to raise for a field that does not hold what it must."""
        found = self.values.get(field)
        return DataError(f"{self.where}, field {field!r}: expected {expected}, found {shortened(found)}")

    def given(self, field: str) -> bool:
        """Whether the row has something in this field; NaN is how tables mark that there is nothing."""
        value = self.values.get(field)
        return value not in (None, "") and not (isinstance(value, float) and math.isnan(value))

    def text(self, field: str) -> str:
        """A non-empty text, without the blanks around it."""
        value = self.values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(field, "a non-empty text")
        return value.strip()

    def name(self, field: str) -> str:
        """A text, or a whole number that stands for one, as ids do."""
        value = self.values.get(field)
        return str(value) if type(value) is int else self.text(field)

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of non-empty texts. Numbers among them are written out, as data sets do not tell "3" from 3."""
        values = self.values.get(field)
        if not isinstance(values, list) or not values:
            raise self.wrong(field, "a list of texts")
        written = [str(value) if type(value) in (int, float) else value for value in values]
        if not all(isinstance(value, str) and value.strip() for value in written):
            raise self.wrong(field, "a list of texts")
        return tuple(value.strip() for value in written)

    def integer(self, field: str) -> int:
        """A whole number, written as one, as its digits, or as tables with gaps write it: ``2.0``."""
        if (value := whole(self.values.get(field))) is None:
            raise self.wrong(field, "a whole number")
        return value

    def position(self, field: str, options: tuple[str, ...]) -> int:
        """The position of an option."""
        if not 0 <= (value := self.integer(field)) < len(options):
            raise self.wrong(field, f"the position of one of {len(options)} options")
        return value

    def letter(self, field: str, options: tuple[str, ...]) -> int:
        """The position of an option given by its letter: ``B``, ``b``, ``(B)``, ``B.`` or ``B. its text``."""
        found = _LETTER.match(self.text(field))
        position = ord(found[1].upper()) - ord("A") if found else -1
        if not 0 <= position < len(options):
            raise self.wrong(field, f"one of {len(options)} options or its letter")
        return position

    def option(self, field: str, options: tuple[str, ...]) -> int:
        """The position of an option given by its own text."""
        value = self.name(field)
        if value not in options:
            raise self.wrong(field, f"one of the options {list(options)}")
        return options.index(value)

    def pick(self, *fields: str) -> dict[str, Any]:
        """Some fields as they are, for the metadata."""
        return {field: self.values[field] for field in fields if self.given(field)}


def whole(value: Any) -> int | None:
    """The whole number that a value is or stands for as a text (``2``, ``"2"``, ``2.0``, ``"2.0"``), else None."""
    if isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        return int(found[1])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def rows_of(path: Path, without: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of a file, read as its extension says; ``without`` names columns of a Parquet file to leave unread.

    Raises:
        DataError: if there is no such file, or it is none of the formats known.
    """
    if not path.is_file():
        raise DataError(f"no annotation file at {path}")
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".json": json_rows,
        ".jsonl": jsonl_rows,
        ".csv": csv_rows,
        ".parquet": lambda file: parquet_rows(file, without),
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: annotations are read from {', '.join(readers)} files, found {path.suffix!r}")
    yield from readers[path.suffix.lower()](path)


def files_of(path: Path, *patterns: str) -> list[Path]:
    """The annotation file itself, or those of a folder that match one of the patterns, in order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted({file for pattern in patterns for file in path.rglob(pattern)})
    if not found:
        raise DataError(f"{path}: a folder without annotation files; expected {' or '.join(patterns)}")
    return found


def load_json(path: Path) -> Any:
    """A whole JSON file."""
    return parse(_read(path), str(path), whole_file=True)


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a JSON list."""
    values = load_json(path)
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list of objects, found {type(values).__name__}")
    for number, value in enumerate(values, start=1):
        yield as_row(value, f"{path}, row {number}")


def jsonl_rows(path: Path) -> Iterator[Row]:
    """One object a line."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        yield as_row(parse(line, where), where)


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV file with a header line, separated as :data:`SEPARATORS` says; all values are texts."""
    lines = _lines(path)
    header = next(lines, "")
    # Not csv.Sniffer, which also guesses quotes, and takes letters for separators.
    separator = max(SEPARATORS, key=header.count)
    reader = csv.DictReader(chain([header], lines), strict=True, delimiter=separator)
    try:
        for values in reader:
            where = f"{path}, line {reader.line_num}"
            if None in values or None in values.values():
                raise DataError(f"{where}: expected {len(reader.fieldnames or ())} columns as in the header")
            check(values, where)
            yield Row(where, values)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: not readable as CSV ({error})") from None


def parquet_rows(path: Path, without: tuple[str, ...] = ()) -> Iterator[Row]:
    """Rows of a Parquet file, a batch in memory at a time."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: Parquet files need pyarrow; pip install 'refocus-video[data]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in without]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", values)
    except ArrowException as error:
        raise DataError(f"{path}: not readable as Parquet: {one_line(error)}") from None


def as_row(value: Any, where: str) -> Row:
    """A value that must be an object."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, found {type(value).__name__}")
    check(value, where, missing=True)
    return Row(where, value)


def _check_text(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(len(PARQUET)) == PARQUET:
            raise DataError(f"{path}: a Parquet file by another name; call it {path.with_suffix('.parquet').name}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"no annotation file at {path}")
    _check_text(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file") from None


def _lines(path: Path) -> Iterator[str]:
    _check_text(path)
    # newline="\n": a text may hold other characters that end a line elsewhere, and a quoted CSV field its own line breaks.
    with path.open(encoding="utf-8-sig", newline="\n") as stream:
        try:
            yield from stream
        except UnicodeDecodeError:
            raise DataError(f"{path}: not a UTF-8 text file") from None
