"""JSON that can be worked with and written again: texts that can be encoded, numbers that are finite, a depth that has an end.

Python reads more than that (``NaN``, lone surrogates of cut emoji) and stops at some things with errors that name no place
(thousands of digits, thousands of nested lists): here each is one line with the field.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from refocus_video.errors import DataError, shortened

MAX_DIGITS = 300
"""Of a whole number: what has more is larger than any float."""
MAX_DEPTH = 64
"""Of lists and objects within each other."""
PARQUET = b"PAR1"
"""What a Parquet file begins with, whatever it is called: no JSON."""

_FIELD = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:|"(?:[^"\\]|\\.)*"|[\[{}\]]', re.DOTALL)


class _TooLong(str):
    """Stands for a whole number of too many digits until its field is known."""

    __slots__ = ()


def parse(text: str, where: str, *, whole_file: bool = False) -> Any:
    """The value of a JSON text; what is in it is still to be looked at by :func:`check`.

    ``where`` names the line, or with ``whole_file`` the file, in which the line is then named.

    Raises:
        DataError: naming ``where``, and the field where lists or objects are nested too deep.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except json.JSONDecodeError as error:
        place = f", line {error.lineno}" if whole_file else ""
        raise DataError(f"{where}{place}: not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise _wrong(where, _deepest(text), _TOO_DEEP) from None


def check(values: dict[str, Any], where: str, *, missing: bool = False) -> None:
    """See that what an object holds can be used and written as JSON again.

    Args:
        values: the object.
        where: file and line.
        missing: let NaN pass, with which tables mark what is missing.

    Raises:
        DataError: naming the first field with a text that is no Unicode, a number that is not finite or has more than
            :data:`MAX_DIGITS` digits, or more than :data:`MAX_DEPTH` levels.
    """
    for field, value in values.items():
        for part, depth in _parts(value, 1):
            if reason := _reason(part, missing) or (_TOO_DEEP if depth > MAX_DEPTH else None):
                raise _wrong(where, field, reason)
        if reason := _reason(field, missing):
            raise _wrong(where, field, reason)


_TOO_DEEP = f"lists or objects nested more than {MAX_DEPTH} deep"


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else _TooLong(len(digits))


def _parts(value: Any, depth: int) -> Iterator[tuple[Any, int]]:
    """A value and all within it, keys too, each with its depth; nothing below the deepest that is allowed."""
    waiting = [(value, depth)]
    while waiting:
        part, depth = waiting.pop()
        yield part, depth
        if depth > MAX_DEPTH:
            continue
        if isinstance(part, dict):
            waiting += [(inner, depth + 1) for inner in (*part.keys(), *part.values())]
        elif isinstance(part, list):
            waiting += [(inner, depth + 1) for inner in part]


def _reason(part: Any, missing: bool) -> str | None:
    if isinstance(part, _TooLong):
        return f"a whole number of {part} digits; at most {MAX_DIGITS} can be read"
    if isinstance(part, float) and not math.isfinite(part) and not (missing and math.isnan(part)):
        return f"{part} is no number that JSON can hold; give a finite one, or leave the field out"
    return unusable_text(part) if isinstance(part, str) else None


def unusable_text(text: str) -> str | None:
    """Why a text cannot be tokenised, written or used as a path; None where it can."""
    if "\0" in text:
        return f"holds a NUL character, found {shortened(text)}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        return f"holds half a character ({half}, of a cut emoji perhaps) at position {error.start}; mend or remove it"
    return None


def _deepest(text: str) -> str | None:
    """The field of the outermost object in which nesting goes too deep."""
    depth, field = 0, None
    for token in _FIELD.finditer(text):
        if token[1] is not None:
            field = token[1] if depth == 1 else field
        elif token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH + 1:
                return field
        elif token[0] in "]}":
            depth -= 1
    return field


def _wrong(where: str, field: str | None, reason: str) -> DataError:
    return DataError(f"{where}: {reason}" if field is None else f"{where}, field {shortened(field)}: {reason}")
