"""Time and memory of each stage of an evaluation.

===========  =========================================================================================================
``opening``  finding the frames of a video file and their times
``looking``  a selector decodes a video and encodes what it needs of it; once for all questions
``picking``  a selector answers the questions of a video at one budget
``decoding`` the frames that any selector picked of a video
``encoding`` the answering model looks at them
``answering`` it scores options or writes
``judging``  answers are compared with what is right, also by a judge
``writing``  rows reach the disk
===========  =========================================================================================================

Memory is told by how far a stage raised the most that the process ever held: the stages that set the peak have a number, all others
have 0. An evaluation in several goes adds up the times and keeps the largest of the rises.
"""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from refocus_video.errors import RefocusWarning
from refocus_video.files import write_json

if sys.platform != "win32":
    import resource

Row = dict[str, Any]
FILE = "stages.json"


class Stages:
    """Adds up what is measured, by stage and by who works."""

    def __init__(self) -> None:
        """Nothing has been measured yet."""
        self._found: dict[tuple[str, str], Row] = {}

    @contextmanager
    def of(self, stage: str, who: str = "") -> Iterator[None]:
        """Measure what is done within; also where it fails."""
        begun, before = time.perf_counter(), _peaks()
        try:
            yield
        finally:
            after = _peaks()
            row = self._found.setdefault((stage, who), _empty(stage, who))
            row["calls"] += 1
            row["seconds"] += time.perf_counter() - begun
            row["rise_mb"] += after[0] - before[0]
            row["device_rise_mb"] += after[1] - before[1]

    @property
    def rows(self) -> list[Row]:
        """One row a stage and worker: ``stage``, ``who``, ``calls``, ``seconds``, ``rise_mb`` and ``device_rise_mb``."""
        return [
            {name: round(v, 4) if isinstance(v, float) else v for name, v in r.items()} for r in self._found.values()
        ]

    def keep(self, folder: Path) -> list[Row]:
        """Add what was measured to what the folder holds already, and return both together."""
        found = {(row["stage"], row["who"]): row for row in read_stages(folder)}
        for row in self.rows:
            other = found.get((row["stage"], row["who"]), _empty("", ""))
            sums = {name: round(row[name] + other[name], 4) for name in ("calls", "seconds")}
            rises = {name: max(row[name], other[name]) for name in ("rise_mb", "device_rise_mb")}
            found[row["stage"], row["who"]] = row | sums | rises
        write_json(folder / FILE, list(found.values()))
        return list(found.values())


def read_stages(folder: Path) -> list[Row]:
    """What :meth:`Stages.keep` left in a folder; nothing if it is not there, or damaged, which a warning tells."""
    path = folder / FILE
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_empty("", "") | row for row in rows]
    except (ValueError, TypeError):
        warnings.warn(f"{path} is damaged; times and memory are counted anew", RefocusWarning, stacklevel=2)
        return []


def _empty(stage: str, who: str) -> Row:
    return {"stage": stage, "who": who, "calls": 0, "seconds": 0.0, "rise_mb": 0.0, "device_rise_mb": 0.0}


def _peaks() -> tuple[float, float]:
    """The most memory that this process and its accelerator have held so far, in MB; 0 where it is not known."""
    held = 0.0
    if sys.platform != "win32":
        unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    cuda: Any = torch.cuda
    if not cuda.is_initialized():
        return held, 0.0
    cuda.synchronize()  # or the next stage would be charged for work that is still going on
    return held, float(cuda.max_memory_allocated()) / 1e6
