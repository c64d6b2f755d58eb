"""What the filter has measured so far: a folder of part files, one for each process that took part.

A line holds all that is known of one video and is written in one piece, so a run that was killed goes on at a whole video: nothing
is measured twice, nothing is lost, and what is measured does not depend on where it was cut. Processes never share a file; any
number of them can go on from what any other number has left.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from refocus_video.errors import RefocusWarning
from refocus_video.files import write_jsonl

Record = dict[str, Any]
"""``video``, and either ``rows``, one a question, or ``error``, why there are none."""


class Place(NamedTuple):
    """Where the record of a video lies."""

    part: Path
    offset: int
    error: str | None
    """Why the video could not be used; such a video is tried again."""
    unscored: bool = False
    """Whether one of its questions could not be scored; these are asked again too."""

    @property
    def whole(self) -> bool:
        """Whether nothing failed."""
        return self.error is None and not self.unscored


class Parts:
    """The part files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read before it is asked for."""
        self.folder = folder

    def mend(self) -> None:
        """Cut off last lines that a kill left unfinished, and drop damaged ones, which a warning counts.

        For one process alone, before the others begin.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._paths():
            with path.open("r+b") as stream:
                size = stream.seek(0, os.SEEK_END)
                whole = _last_newline(stream, size)
                if whole < size:
                    stream.truncate(whole)
            damaged = sum(record is None for _, record in _records(path))
            if damaged:
                records = f"{damaged} record{'s' * (damaged > 1)}"
                warnings.warn(f"{path}: {records} damaged; the videos are measured again", RefocusWarning, stacklevel=2)
                write_jsonl(path, (record for _, record in _records(path) if record is not None))

    def index(self) -> dict[str, Place]:
        """Where each video's record lies; a later record stands for an earlier one in which something failed."""
        places: dict[str, Place] = {}
        for path in self._paths():
            for offset, record in _records(path):
                if record is None:  # damaged since it was mended: as if it were not there
                    continue
                earlier = places.get(record["video"])
                if earlier is None or not earlier.whole:
                    unscored = any("error" in row for row in record.get("rows", ()))
                    places[record["video"]] = Place(path, offset, record.get("error"), unscored)
        return places

    @contextmanager
    def appending(self, rank: int) -> Iterator[Callable[[Record], None]]:
        """Give a function that adds a record to the file of a process, and returns when it is on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank-{rank:05}.jsonl").open("ab") as stream:

            def add(record: Record) -> None:
                stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())

            yield add

    def reading(self, places: Mapping[str, Place]) -> Callable[[str], Record]:
        """A function that finds the record of a video."""

        @lru_cache(maxsize=256)  # the questions of a video mostly follow each other
        def read(video: str) -> Record:
            place = places[video]
            with place.part.open("rb") as stream:
                stream.seek(place.offset)
                record: Record = json.loads(stream.readline())
            return record

        return read

    def sizes(self) -> dict[str, int]:
        """Records in each part file."""
        return {path.name: sum(1 for _ in path.open("rb")) for path in self._paths()}

    def remove(self) -> None:
        """Forget everything."""
        for path in self._paths():
            path.unlink()
        self.folder.rmdir()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("rank-*.jsonl"))


def _records(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Where each line begins, and what it holds; None for one that is damaged."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            yield offset, _record(line)
            offset += len(line)


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return (
        record if isinstance(record, dict) and "video" in record and ("rows" in record or "error" in record) else None
    )


def _last_newline(stream: Any, size: int, step: int = 1 << 16) -> int:
    """The byte after the last newline of an open file; 0 if it has none."""
    end = size
    while end:
        start = max(0, end - step)
        stream.seek(start)
        found: int = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
