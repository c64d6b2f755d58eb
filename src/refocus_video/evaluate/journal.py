"""A JSON Lines file that grows while a run goes on and from which the run goes on after a kill.

Rows of one unit of work (a video) are appended in one write that reaches the disk. What a kill left of a unit is cut off when the
file is opened again: which rows make a unit whole is known before it is run. Lines that can no longer be read are named and dropped
with their unit, which is then run again.
"""

import json
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from refocus_video.errors import ConfigError, RefocusWarning
from refocus_video.files import write_jsonl

Row = dict[str, Any]


class Journal:
    """The rows of finished units, and the place where further ones go."""

    def __init__(self, path: Path, head: Row | None = None) -> None:
        """Open or begin the file; ``head`` is its first line where it has one."""
        self.path = path
        self.rows: list[Row] = []
        if not path.exists():
            write_jsonl(path, [] if head is None else [head])
            return
        whole, torn = _whole_lines(path, head is not None)
        # A file cut inside its first line begins anew.
        if torn:
            write_jsonl(path, whole or ([] if head is None else [head]))
        self.rows = whole if head is None else whole[1:]
        self._head = whole[:1] if head is not None else []

    def keep_finished(
        self,
        expected: Mapping[Hashable, Set[Hashable]],
        unit: Callable[[Row], Hashable],
        key: Callable[[Row], Hashable],
    ) -> set[Hashable]:
        """Cut off the rows of unfinished units and of those in which something failed; returns the finished ones.

        What failed is tried again by every later run: its cause (a disk that was away) may be gone.

        Args:
            expected: the keys of the rows that each unit has when it is finished.
            unit: of a row.
            key: of a row.
        """
        found: dict[Hashable, set[Hashable]] = {}
        for row in self.rows:
            found.setdefault(unit(row), set()).add(key(row))
        failed = {unit(row) for row in self.rows if row.get("error")}
        finished = {name for name, keys in expected.items() if keys <= found.get(name, set()) and name not in failed}
        kept = [row for row in self.rows if unit(row) in finished]
        if len(kept) < len(self.rows):
            self.rows = kept
            write_jsonl(self.path, [*self._head, *kept])
        return finished

    def append(self, rows: Iterable[Row]) -> None:
        """Add the rows of one unit in one write that reaches the disk."""
        new = list(rows)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
            stream.flush()
            os.fsync(stream.fileno())
        self.rows += new


def begin(path: Path, head: Row) -> Journal:
    """Open or begin a journal whose first line says what its rows are of.

    Raises:
        ConfigError: if it says something else.
    """
    now = json.loads(json.dumps(head))
    if path.exists():
        with path.open("rb") as stream:
            first = stream.readline()
        if first.endswith(b"\n") and _object(first) not in (None, now):
            raise ConfigError(f"{path.parent} holds results of other settings; choose another folder or remove it")
    return Journal(path, now)


def _whole_lines(path: Path, head: bool) -> tuple[list[Row], bool]:
    """The rows that can be read, and whether anything else is there: a last line without its end, or damaged ones, which a warning
    counts.

    Raises:
        ConfigError: if it is the first line that is damaged, and that says what the others are of.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    # Not splitlines: a text may hold characters such as U+2028, which end a line there but not in JSONL.
    lines = [line for line in content[:end].split(b"\n") if line]
    found = [_object(line) for line in lines]
    if head and found and found[0] is None:
        raise ConfigError(
            f"{path}, line 1 is damaged, and it says what the rows are of; remove the file (rm '{path}') and run again"
        )
    if damaged := found.count(None):
        which = f"line {found.index(None) + 1}" + (f" and {damaged - 1} more" if damaged > 1 else "")
        warnings.warn(f"{path}: {which} damaged; what was there is worked out again", RefocusWarning, stacklevel=3)
    return [row for row in found if row is not None], bool(damaged) or end < len(content)


def _object(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
