"""Finished evaluations read back and put side by side, after a check that they can be."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocus_video.data.selections import Chosen, check_same_pools, read_selections
from refocus_video.errors import DataError
from refocus_video.evaluate.metrics import BASELINE, summarise
from refocus_video.evaluate.run import FILES

Row = dict[str, Any]
LENGTH = "length: "
"""Begins the group of questions whose videos have one length."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The rows of several evaluations as if they were one."""

    rows: tuple[Row, ...]
    chosen: tuple[Chosen, ...]
    settings: dict[str, Any]
    """Of each folder, by its path."""

    @property
    def cells(self) -> dict[tuple[str, str], list[Row]]:
        """Rows by question file and answering model."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["dataset"], row["model"]), []).append(row)
        return found


def load_runs(folders: Sequence[Path]) -> Runs:
    """Read the evaluations in some folders and in the folders directly below them.

    Raises:
        DataError: if there is none, if two hold the same row, or if they chose from other candidates of one video.
    """
    rows: dict[tuple[Any, ...], tuple[Row, Path]] = {}
    chosen: list[Chosen] = []
    settings: dict[str, Any] = {}
    for folder in _evaluations(folders):
        settings[str(folder)] = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        chosen += read_selections(folder / FILES[1]).rows if _holds_rows(folder / FILES[1]) else []
        for line in (folder / FILES[2]).read_text(encoding="utf-8").split("\n"):
            if line:
                row = json.loads(line)
                key = tuple(row[name] for name in ("dataset", "model", "selector", "budget", "id"))
                if key in rows:
                    what = f"{row['selector']} with {row['budget']} frames, answered by {row['model']}, question {row['id']!r}"
                    raise DataError(f"{rows[key][1]} and {folder} both hold {what}; report one of them")
                rows[key] = row, folder
    check_same_pools(chosen)
    return Runs(tuple(row for row, _ in rows.values()), tuple(chosen), settings)


def compare(runs: Runs, baseline: str = BASELINE) -> list[Row]:
    """One line for each question file, model, group of questions, selector and budget; groups are types and lengths."""
    lines = []
    for (dataset, model), rows in runs.cells.items():
        by_length = [row | {"question_type": LENGTH + row["length"]} for row in rows if row["length"]]
        found = summarise(rows, baseline=baseline) + [
            line for line in summarise(by_length, baseline=baseline) if line["question_type"].startswith(LENGTH)
        ]
        lines += [{"dataset": dataset, "model": model} | line for line in found]
    return lines


def _evaluations(folders: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        here = (
            [folder] if (folder / FILES[2]).is_file() else sorted(path.parent for path in folder.glob(f"*/{FILES[2]}"))
        )
        if not here:
            raise DataError(
                f"no evaluation in {folder}: expected {FILES[2]} there or one folder below; run `refocus eval`"
            )
        found += here
    return list(dict.fromkeys(found))


def _holds_rows(path: Path) -> bool:
    """Whether a selection file has more than its manifest; an evaluation of given selections alone writes no more."""
    return path.is_file() and path.read_bytes().count(b"\n") > 1
