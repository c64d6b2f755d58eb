"""What the published ReFoCUS code stores: a Python ``shelve``, read without running anything in it.

A shelve is a ``dbm`` file whose values are pickles, and unpickling a file runs whatever it asks for. So ``shelve`` is not used:
values are taken from ``dbm`` as bytes and read by an unpickler that finds nothing by name. The few names of NumPy's own array
format give inert records, every other name is refused, and the numbers are taken from the records afterwards.

A key is JSON: the prompt and the benchmark's row. A value is a dictionary with ``frame_idx`` (the candidates' frame indices in the
source video) and ``candidates`` (sampled rollouts as positions among them, in the order picked; None for a video too short for the
policy), or, in a file written by its export script, the chosen frame indices themselves. The published evaluation uses the first
picks of the first rollout, and so does this.

A ``dbm`` file can be opened only where the library that wrote it is installed (gdbm, ndbm, none for ``dbm.dumb``). Elsewhere run,
where it was made, what docs/selections.md shows: it writes JSONL with ``key`` and the value's fields, which is read here as well.
"""

import dbm
import io
import json
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.data.datasets.rows import Row, as_row, jsonl_rows
from refocus_video.data.selection_formats.listed import Listed, about, indices
from refocus_video.errors import DataError

NO_ROLLOUT = "the policy was not asked: the video was too short for it"

_RECORDED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}
_NUMBER = re.compile("[iuf][1248]")
_PARTS_OF_DBM = (".dat", ".dir", ".bak", ".db")


def read(path: Path) -> Iterator[Listed]:
    """One entry a question, in the order picked where the file has it."""
    for where, key, value in _from_jsonl(path) if path.suffix.lower() == ".jsonl" else _from_dbm(path):
        yield _listed(where, key, value)


def _listed(where: str, key: Any, value: Any) -> Listed:
    row = Row(where, {})
    known = about(_sample(where, key))
    if not isinstance(value, Mapping):
        return Listed(where, known, indices(_numbers(value, row, "frames"), row, "frames"))
    if value.get("candidates") is None:
        return Listed(where, known, error=NO_ROLLOUT)
    pool = indices(_numbers(value.get("frame_idx"), row, "frame_idx"), row, "frame_idx")
    rollouts = _numbers(value["candidates"], row, "candidates")
    first = rollouts[0] if rollouts and isinstance(rollouts[0], list) else rollouts
    picks = indices(first, row, "candidates")
    if picks and max(picks) >= len(pool):
        raise DataError(f"{where}, field 'candidates': position {max(picks)} is not among its {len(pool)} candidates")
    return Listed(where, known, tuple(pool[pick] for pick in picks), ranked=True)


def _sample(where: str, key: Any) -> Row:
    """The benchmark's row in a key."""
    try:
        _, sample = json.loads(key)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected a key such as '[prompt, row]', found {key!r}") from None
    return as_row(sample, f"{where}, key")


def _from_jsonl(path: Path) -> Iterator[tuple[str, Any, Any]]:
    for row in jsonl_rows(path):
        if not {"frame_idx", "frames"} & row.values.keys():
            raise DataError(f"{row.where}: expected key, frame_idx and candidates, or key and frames")
        yield row.where, row.values.get("key"), row.values.get("frames", row.values)


def _from_dbm(path: Path) -> Iterator[tuple[str, Any, Any]]:
    base = _base(path)
    try:
        store = dbm.open(str(base))  # noqa: SIM115
    except dbm.error as error:
        kind = dbm.whichdb(str(base))
        why = f"was written by {kind}, which this Python lacks; see docs/selections.md" if kind else "is no shelve"
        raise DataError(f"{path} {why} ({error})") from None
    with store:
        for number, key in enumerate(sorted(map(bytes, store.keys())), start=1):  # type: ignore[arg-type]
            where = f"{path}, entry {number}"
            yield where, key.decode("utf-8", "replace"), _plain(store[key], where)


def _base(path: Path) -> Path:
    """The name that the store was opened by: some libraries add extensions to it."""
    if path.suffix in _PARTS_OF_DBM and dbm.whichdb(str(path)) in (None, ""):
        path = path.with_suffix("")
    if dbm.whichdb(str(path)) is None:
        raise DataError(f"no shelve at {path}; give the name that the published code was given as database_file")
    return path


@dataclass(frozen=True, slots=True)
class _Name:
    """Stands for something of NumPy that a pickle names. Called, it makes a record of the call."""

    name: str

    def __call__(self, *given: Any) -> "_Record":
        return _Record(self.name, given)


class _Record:
    """What NumPy would have been called with."""

    __slots__ = ("given", "name", "state")

    def __init__(self, name: str, given: tuple[Any, ...]) -> None:
        self.name, self.given = name, given
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Inert(pickle.Unpickler):
    """Builds numbers, texts, lists, tuples, dictionaries and records; nothing is imported and nothing of the file is called."""

    def find_class(self, module: str, name: str) -> _Name:
        if (module, name) not in _RECORDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Name(name)


def _plain(data: bytes, where: str) -> Any:
    try:
        return _Inert(io.BytesIO(data)).load()
    # A damaged or hostile pickle can fail in any way; all of them mean the same.
    except Exception as error:
        raise DataError(f"{where}: not an entry of the published code, left unread: {error}") from None


def _numbers(value: Any, row: Row, field: str) -> list[Any]:
    """An array's record, or a list, as nested lists."""
    try:
        found = _array(value).tolist() if isinstance(value, _Record) else value
    except (TypeError, ValueError, IndexError, AttributeError):
        raise DataError(f"{row.where}, field {field!r}: not readable as an array of numbers") from None
    if not isinstance(found, list | tuple):
        raise DataError(f"{row.where}, field {field!r}: expected a list of numbers, found {type(found).__name__}")
    return list(found)


def _array(record: _Record) -> Any:
    """The array that a record stands for."""
    if record.name == "_frombuffer":
        data, kind, shape, order = record.given
    else:
        _, shape, kind, fortran, data = record.state
        order = "F" if fortran else "C"
    if not isinstance(kind, _Record) or not isinstance(data, bytes | bytearray):
        raise TypeError("not an array of numbers")
    dtype = _dtype(kind)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("not as many numbers as the shape says")
    return np.frombuffer(bytes(data), dtype=dtype).reshape(shape, order=order)


def _dtype(record: _Record) -> "np.dtype[Any]":
    code = record.given[0]
    if not isinstance(code, str) or not _NUMBER.fullmatch(code):
        raise TypeError("not an array of numbers")
    return np.dtype(("<" if record.state[1] != ">" else ">") + code)
