"""Finished evaluations read back and put side by side, after a check that they can be."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refocus_video.errors import DataError
from refocus_video.evaluate.answer import LENGTH_CLASSES
from refocus_video.evaluate.metrics import BASELINE, summarise
from refocus_video.evaluate.run import FILES

Row = dict[str, Any]
LENGTH = "length: "
"""Begins the group of questions whose videos have one length."""
PROBES = ("needle", "suppression", "prefix_noise", "influence")
"""Kinds of measurements beside the evaluation; each is a file ``KIND.json`` with ``kind`` and ``rows``."""

_SHORTEST_FIRST = ("short", "medium", "long", *LENGTH_CLASSES)
_WHAT = ("dataset", "model", "selector", "budget", "id")
"""What there is one row of."""
_SAID = ("frame_indices", "predicted", "correct", "error", "text")
"""What two rows of one thing must agree in."""
_REWARDS = frozenset({"reward", "open_reward", "control", "rotation"})
"""Settings of a model that matter in training alone."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The rows of several evaluations as if they were one, and what was measured beside them."""

    rows: tuple[Row, ...]
    settings: dict[str, Any]
    """Of each folder, by its path."""
    stages: tuple[Row, ...] = ()
    """Time and memory of each stage, as in ``results.json``, with the folder."""
    probes: tuple[Row, ...] = ()
    """What every file of :data:`PROBES` holds, with its ``folder``."""

    @property
    def cells(self) -> dict[tuple[str, str], list[Row]]:
        """Rows by question file and answering model."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["dataset"], row["model"]), []).append(row)
        return found

    @property
    def selectors(self) -> list[str]:
        """Everyone who chose, in the order of appearance."""
        return list(dict.fromkeys(row["selector"] for row in self.rows))


def load_runs(folders: Sequence[Path], progress: Callable[[], None] = lambda: None) -> Runs:
    """Read the evaluations and measurements in some folders and in the folders directly below them.

    A row that two evaluations hold alike, such as that of a baseline which both ran, counts once.

    Args:
        folders: what to read.
        progress: called once for each of them.

    Raises:
        DataError: if there is none; if two hold different rows of one thing or chose from different candidates of one video; if
            under one name they asked different questions, or one model answered under different settings.
    """
    read: dict[Path, list[Row]] = {}
    settings: dict[str, Any] = {}
    stages: list[Row] = []
    probes: list[Row] = []
    for given in folders:
        for folder in _found(given):
            for kind in PROBES:
                path = folder / f"{kind}.json"
                probes += [{"folder": str(folder)} | _json(path)] if path.is_file() else []
            if (folder / FILES[2]).is_file():
                settings[str(folder)] = _json(folder / FILES[0])
                stages += [{"folder": str(folder)} | line for line in _stages(folder / "results.json")]
                read[folder] = _rows(folder / FILES[2])
        progress()
    # Settings first: where they differ the answers do as well, and the setting is the reason.
    _check_settings(settings, {(str(folder), row["dataset"]) for folder, found in read.items() for row in found})
    rows: dict[tuple[Any, ...], tuple[Row, Path]] = {}
    pools: dict[str, tuple[Row, Path]] = {}
    for folder, found in read.items():
        for row in found:
            _add(row, folder, rows, pools)
    return Runs(tuple(row for row, _ in rows.values()), settings, tuple(stages), tuple(probes))


def compare(runs: Runs, baseline: str = BASELINE) -> list[Row]:
    """One line for each question file, model, group of questions, selector and budget; groups are types and lengths."""
    lines = []
    for (dataset, model), rows in runs.cells.items():
        by_length = [row | {"question_type": row["length"] and LENGTH + row["length"]} for row in rows]
        lengths = sorted({row["length"] for row in rows if row["length"]}, key=_length_order)
        found = summarise(rows, baseline=baseline)
        found += summarise(by_length, baseline=baseline, kinds=[LENGTH + length for length in lengths])
        lines += [{"dataset": dataset, "model": model} | line for line in found]
    return lines


def _length_order(length: str) -> tuple[int, str]:
    known = _SHORTEST_FIRST.index(length) if length in _SHORTEST_FIRST else len(_SHORTEST_FIRST)
    return known, length


def _found(folder: Path) -> list[Path]:
    """The folder itself if it holds anything, else those directly below that do."""
    names = (FILES[2], *(f"{kind}.json" for kind in PROBES))
    if any((folder / name).is_file() for name in names):
        return [folder]
    found = sorted({path.parent for name in names for path in folder.glob(f"*/{name}")})
    if not found:
        raise DataError(f"no evaluation in {folder}: expected {FILES[2]} there or one folder below; run `refocus eval`")
    return found


def _add(
    row: Row, folder: Path, rows: dict[tuple[Any, ...], tuple[Row, Path]], pools: dict[str, tuple[Row, Path]]
) -> None:
    key = tuple(row[name] for name in _WHAT)
    first, where = rows.setdefault(key, (row, folder))
    if any(first.get(name) != row.get(name) for name in _SAID):
        count = f"{row['budget']} frame{'s' * (row['budget'] != 1)}"
        what = f"{row['selector']} with {count}, answered by {row['model']}, question {row['id']!r}"
        raise DataError(f"{where} and {folder} differ in {what}; report one of them, or give a selector another name")
    if row.get("pool"):
        other, there = pools.setdefault(row["video"], (row, folder))
        if other["pool"] != row["pool"]:
            raise DataError(
                f"{row['video']}: {folder} chose among {row['candidates']} candidates (pool {row['pool']}), {there} among "
                f"{other['candidates']} (pool {other['pool']}); evaluate again with the same sampling"
            )


def _check_settings(settings: dict[str, Any], datasets: set[tuple[str, str]]) -> None:
    """Refuse evaluations that mean different things by one name."""
    asked: dict[str, tuple[Any, str]] = {}
    answered: dict[str, tuple[Any, str]] = {}
    for folder, described in settings.items():
        own = described.get("settings", {})
        for name in sorted(dataset for place, dataset in datasets if place == folder):
            questions = own.get("fingerprints", {}).get("questions")
            first, there = asked.setdefault(name, (questions, folder))
            if first != questions:
                raise DataError(f"{there} and {folder} asked different questions of {name!r}; report one of them")
        how = {key: own.get(key) for key in ("in_words", "judge")}
        for name, model in zip(described.get("models", ()), own.get("models", ()), strict=False):
            now = {key: value for key, value in model.items() if key not in _REWARDS} | how
            before, there = answered.setdefault(name, (now, folder))
            changed = [key for key in now if now[key] != before.get(key)]
            if changed:
                raise DataError(
                    f"{name} answered under different settings: {changed[0]} is {before.get(changed[0])!r} in {there} and "
                    f"{now[changed[0]]!r} in {folder}; report one of them"
                )


def _rows(path: Path) -> list[Row]:
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            raise DataError(
                f"{path}, line {number}: not valid JSON; run the same `refocus eval` again to mend it"
            ) from None
        missing = [name for name in (*_WHAT, "video", "length", "correct", "error") if name not in row]
        if missing:
            raise DataError(f"{path}, line {number}: has no {missing[0]!r}; is this a file of `refocus eval`?")
        rows.append(row)
    return rows


def _stages(path: Path) -> list[Row]:
    found = _json(path).get("stages", []) if path.is_file() else []
    return list(found)


def _json(path: Path) -> Row:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(
            f"{path}: not valid JSON; leave {path.parent} out, or remove it and run its `refocus eval` again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object, found {type(found).__name__}")
    return found
