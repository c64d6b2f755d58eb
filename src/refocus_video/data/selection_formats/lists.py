"""Frame lists in JSON: AKS, TSPO and KFS-Bench.

- AKS (``selected_frames.json``): a list of lists of frame indices, one for each question in the order of the benchmark's own file;
  nothing says which question.
- TSPO (``TSPO_<benchmark>_frameIdx.json``): the benchmark's own rows, each with ``frame_idx``, written as floats.
- KFS-Bench (results): ``id`` and ``frame_timestamps`` in seconds; frames may be repeated.

AKS looks at every int(fps)-th frame and TSPO at every round(fps)-th, but both list frame indices of the source video.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from refocus_video.data.datasets.rows import Row, json_rows, load_json
from refocus_video.data.selection_formats.listed import About, Listed, about, indices
from refocus_video.errors import DataError


def read_aks(path: Path) -> Iterator[Listed]:
    """A list of lists; questions are told by their order."""
    values = load_json(path)
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list of lists of frame indices, found {type(values).__name__}")
    for number, value in enumerate(values, start=1):
        row = Row(f"{path}, list {number}", {"frames": value})
        yield Listed(row.where, About(), indices(value, row, "frames"))


def read_tspo(path: Path) -> Iterator[Listed]:
    """The benchmark's rows with ``frame_idx``."""
    for row in json_rows(path):
        if "frame_idx" not in row.values:
            raise row.wrong("frame_idx", "a list of frame indices")
        yield Listed(row.where, about(row), indices(row.values["frame_idx"], row, "frame_idx"))


def read_kfs_bench(path: Path) -> Iterator[Listed]:
    """Objects with ``id`` and ``frame_timestamps``."""
    for row in json_rows(path):
        values = row.values.get("frame_timestamps")
        if not isinstance(values, list) or not all(type(t) in (int, float) and math.isfinite(t) for t in values):
            raise row.wrong("frame_timestamps", "a list of seconds")
        yield Listed(row.where, About(row.name("id")), times=tuple(float(t) for t in values))
