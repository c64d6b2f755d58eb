"""What must be seen to answer, as scenes of one or several stretches each: from examples, or from an evidence file.

An evidence file is one of

- a CSV of KFS-Bench (``id``, ``segment_id``, ``scene_id``, ``start``, ``end``; clock times). Rows of one ``id`` with one
  ``scene_id`` are one scene. Times are whole seconds and an end is the second that is still in, so one second is added to it, as
  its authors do. Its licence allows research only: have it from them.
- JSONL with ``id`` and ``scenes``: a list of scenes, each a list of ``[start_s, end_s]``; or ``evidence``, a list of
  ``[start_s, end_s]`` that are a scene each.

Where questions carry their own evidence (NExT-GQA, LongVideoBench, LVBench, one's own), each of its spans is a scene.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refocus_video.data.datasets.rows import Row, csv_rows, jsonl_rows
from refocus_video.errors import DataError
from refocus_video.types import Example, Span

Scene = tuple[Span, ...]
"""Stretches that show the same; a frame from any of them is a frame of the scene."""
Scenes = tuple[Scene, ...]

COLUMNS = ("id", "scene_id", "start", "end")
SPANS = "a list of [start_s, end_s]"
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


def scenes_of(examples: Iterable[Example]) -> dict[str, Scenes]:
    """The evidence of each example that has any, a scene for each span, by its id."""
    return {example.id: tuple((span,) for span in example.evidence) for example in examples if example.evidence}


def read_scenes(path: Path) -> dict[str, Scenes]:
    """The scenes of an evidence file by the question's id.

    Raises:
        DataError: naming file, line and field of the first thing that is wrong.
    """
    if not path.is_file():
        raise DataError(f"no evidence file at {path}; give a CSV of KFS-Bench or JSONL with id and scenes")
    readers = {".csv": _from_csv, ".jsonl": _from_jsonl}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: evidence is read from .csv (KFS-Bench) and .jsonl files, found {path.suffix!r}")
    found = readers[path.suffix.lower()](path)
    if not found:
        raise DataError(f"{path}: holds no scenes")
    return found


def _from_csv(path: Path) -> dict[str, Scenes]:
    grouped: dict[str, dict[str, list[Span]]] = {}
    for row in csv_rows(path):
        lacking = [name for name in COLUMNS if name not in row.values]
        if lacking:
            raise DataError(f"{row.where}: no column {lacking[0]!r}; expected {', '.join(COLUMNS)}")
        start, end = _seconds(row, "start"), _seconds(row, "end")
        if end < start:
            raise row.wrong("end", f"a time not before {row.values['start']}")
        grouped.setdefault(row.text("id"), {}).setdefault(row.text("scene_id"), []).append(Span(start, end + 1.0))
    return {id: tuple(map(tuple, scenes.values())) for id, scenes in grouped.items()}


def _seconds(row: Row, field: str) -> float:
    stamp = _CLOCK.fullmatch(row.text(field))
    if stamp is None:
        raise row.wrong(field, "a time such as 0:12:05 or 12:05")
    hours, minutes, seconds = stamp.groups()
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes) + float(seconds)


def _from_jsonl(path: Path) -> dict[str, Scenes]:
    found: dict[str, Scenes] = {}
    for row in jsonl_rows(path):
        id = row.name("id")
        if id in found:
            raise DataError(f"{row.where}, field 'id': {id!r} was already used")
        if row.given("scenes"):
            found[id] = tuple(tuple(_span(row, "scenes", span) for span in scene) for scene in _lists(row, "scenes"))
        elif row.given("evidence"):
            found[id] = tuple((_span(row, "evidence", span),) for span in _lists(row, "evidence"))
    return {id: scenes for id, scenes in found.items() if scenes}


def _lists(row: Row, field: str) -> list[list[Any]]:
    values = row.values[field]
    if not isinstance(values, list) or not all(isinstance(value, list) and value for value in values):
        raise row.wrong(field, "a list of scenes, each a list of [start_s, end_s]" if field == "scenes" else SPANS)
    return values


def _span(row: Row, field: str, value: Any) -> Span:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) for x in value)
    if not numbers or not value[0] <= value[1]:
        raise row.wrong(
            field, f"{SPANS} in seconds" if field == "evidence" else "scenes of [start_s, end_s] in seconds"
        )
    return Span(float(value[0]), float(value[1]))
