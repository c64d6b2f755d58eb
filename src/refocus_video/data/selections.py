"""The selection file: frames chosen once, used with many LMMs and measures, by us or by others.

JSON Lines in UTF-8. The first line is ``{"manifest": {...}}``: the format's name, the selector and the settings that made the file.
Every further line is one question at one budget:

================  ====================================================================================================
``id``            id of the question
``video``         path or name of the video
``question``      its text (may be empty in files made elsewhere)
``selector``      who chose
``budget``        frames asked for
``frame_indices`` positions in the source video, increasing; empty where nothing could be chosen or only times are known
``times``         presentation times in seconds, one for each frame; may be left out
``positions``     optional: positions among the candidates, increasing
``candidates``    optional: size of the pool
``pool``          optional: fingerprint of the pool's frame indices; runs are compared on equal pools only
``scores``        optional: the selector's own number for each frame (probability, similarity); higher is better
``seconds``       optional: time that the choice took
``error``         optional: why there are no frames
================  ====================================================================================================

Times are those stored in the video, never index / fps: a file that lacks them can be given them by whoever has the video. Frames
can be measured where times are known (``refocus quality``), and shown to a model where indices are. docs/selections.md has more.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from refocus_video.errors import DataError
from refocus_video.files import write_jsonl
from refocus_video.types import IntArray, Selection, Timeline

FORMAT = "refocus-selections/1"


class Chosen(BaseModel):
    """One line of a selection file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1)
    video: str
    question: str
    selector: str = Field(min_length=1)
    budget: PositiveInt
    frame_indices: list[NonNegativeInt]
    times: list[float] = []
    positions: list[NonNegativeInt] | None = None
    candidates: PositiveInt | None = None
    pool: str | None = None
    scores: list[float] | None = None
    seconds: float | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        count = len(self.frame_indices or self.times)
        if not count and not self.error:
            raise ValueError("has no frames and no error; one of them is needed")
        for name, values in (("times", self.times), ("positions", self.positions), ("scores", self.scores)):
            if values and len(values) != count:
                raise ValueError(f"{count} frames need as many {name}, found {len(values)}")
        for name, values in (("frame_indices", self.frame_indices), ("positions", self.positions or [])):
            if any(later <= earlier for earlier, later in pairwise(values)):
                raise ValueError(f"{name} must increase, found {values}")
        if any(later < earlier for earlier, later in pairwise(self.times)):
            raise ValueError(f"times must not decrease, found {self.times}")
        if self.positions and self.candidates is not None and self.positions[-1] >= self.candidates:
            raise ValueError(f"position {self.positions[-1]} is not among its {self.candidates} candidates")
        return self


class SelectionFile(NamedTuple):
    """A selection file in memory."""

    manifest: dict[str, Any]
    rows: list[Chosen]


def pool_fingerprint(frame_indices: IntArray) -> str:
    """A short name for the candidates of one video, by their frame indices (F,)."""
    return hashlib.sha256(np.ascontiguousarray(frame_indices, dtype="<i8").tobytes()).hexdigest()[:12]


def chosen_row(selection: Selection, id: str, budget: int, candidates: Timeline, seconds: float) -> Chosen:
    """The row of a selection: its frames, when it was made from these candidates in this many seconds."""
    scores = selection.probabilities
    return Chosen(
        id=id,
        video=selection.video,
        question=selection.question.text,
        selector=selection.selector,
        budget=budget,
        frame_indices=selection.frame_indices.tolist(),
        times=[round(float(t), 6) for t in selection.times],
        positions=selection.positions.tolist(),
        candidates=len(candidates),
        pool=pool_fingerprint(candidates.frame_indices),
        scores=None if scores is None else [round(float(p), 6) for p in scores],
        seconds=round(seconds, 6),
    )


def empty_row(id: str, video: str, question: str, selector: str, budget: int, reason: str) -> Chosen:
    """The row of a question for which there are no frames."""
    return Chosen(
        id=id, video=video, question=question, selector=selector, budget=budget, frame_indices=[], error=reason
    )


def write_selections(path: Path, manifest: dict[str, Any], rows: Iterable[Chosen]) -> None:
    """Write a selection file, whole or not at all."""
    head = {"manifest": {"format": FORMAT} | manifest}
    write_jsonl(path, chain([head], (row.model_dump(mode="json", exclude_none=True) for row in rows)))


def read_selections(path: Path) -> SelectionFile:
    """Read a selection file.

    Raises:
        DataError: naming file, line and field of the first thing that is wrong.
    """
    if not path.is_file():
        raise DataError(f"no selection file at {path}; `refocus eval` writes one")
    try:
        # Not splitlines: a text may hold characters such as U+2028, which end a line there but not in JSONL.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file; a selection file is JSONL") from None
    manifest = _manifest(lines[0], f"{path}, line 1")
    rows: list[Chosen] = []
    seen: dict[tuple[str, str, int], int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        first = seen.setdefault((row.selector, row.id, row.budget), number)
        if first != number:
            raise DataError(
                f"{path}, line {number}: {row.id!r} at {row.budget} frames by {row.selector} was already in line {first}"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no selections")
    return SelectionFile(manifest, rows)


def check_same_pools(rows: Sequence[Chosen]) -> None:
    """Refuse to compare choices that were made for one question from different candidates.

    Raises:
        DataError: naming the first question whose pools differ.
    """
    pools: dict[str, Chosen] = {}
    for row in rows:
        if row.pool is None:
            continue
        first = pools.setdefault(row.id, row)
        if first.pool != row.pool:
            raise DataError(
                f"question {row.id!r}: {row.selector} chose among {row.candidates} candidates (pool {row.pool}), "
                f"{first.selector} among {first.candidates} (pool {first.pool}); select again with the same sampling"
            )


def check_frames(row: Chosen, frame_count: int) -> None:
    """Refuse frames that the video does not have.

    Raises:
        DataError: naming the frame.
    """
    if row.frame_indices and row.frame_indices[-1] >= frame_count:
        raise DataError(
            f"selection for {row.id!r} names frame {row.frame_indices[-1]}; {row.video} has frames 0..{frame_count - 1}"
        )


def check_indices(row: Chosen) -> None:
    """Refuse a choice whose times are known and whose frames are not.

    Raises:
        DataError: naming the question.
    """
    if row.times and not row.frame_indices:
        raise DataError(
            f"selection for {row.id!r} has times and no frame indices; import it again with the video at hand"
        )


def _manifest(line: str, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(line)["manifest"]
        found = manifest["format"]
    except (json.JSONDecodeError, KeyError, TypeError):
        found = None
    if found != FORMAT:
        raise DataError(f'{where}: expected {{"manifest": {{"format": "{FORMAT}", ...}}}}; is this a selection file?')
    return dict(manifest)


def _row(line: str, where: str) -> Chosen:
    try:
        return Chosen.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        about = f", field {field!r}" if field else ""
        if first["type"] == "extra_forbidden":
            raise DataError(f"{where}{about}: unknown; known fields are {', '.join(Chosen.model_fields)}") from None
        raise DataError(f"{where}{about}: {first['msg'].removeprefix('Value error, ')}") from None
