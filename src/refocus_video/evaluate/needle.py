"""The needle test: something is hidden at some depth among the frames of a film, and selectors are asked about it.

The candidates are evenly spread over the film, 64 to 1024 of them or as many as wanted, and the needle takes the place of
as many of them as it has pictures: their times stay those of the film. Nothing is encoded again; the film is decoded once a
length.
Selectors are given pictures (:class:`~refocus_video.types.Candidates`), at most :data:`LONGEST_SIDE` pixels long.

Differences from the published test (V-NIAH, LongVA), which has no selector:
1. Recall of the needle's frames is measured before any model answers.
2. A needle lies around its depth, at a drawn place, so that the depths together cover the film: even spacing would hit an
   exact depth always or never.
3. Other needles can be hidden beside it, to tell who follows the question from who picks everything unusual.

Legend: F candidates ("length") · K frames picked ("budget") · n pictures of a needle.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.errors import OF_ONE_VIDEO, BudgetError, ConfigError, DataError
from refocus_video.evaluate.answer import Answering, verdicts
from refocus_video.evaluate.journal import begin
from refocus_video.evaluate.metrics import mean_line
from refocus_video.evaluate.needles import Needle, places
from refocus_video.evaluate.probe_plots import heat_map, standalone
from refocus_video.files import write_json, write_text
from refocus_video.selectors.base import Pick, Selector
from refocus_video.selectors.uniform import uniform_u1
from refocus_video.types import Candidates, IntArray
from refocus_video.video.pixels import scaled
from refocus_video.video.reader import VideoReader

Row = dict[str, Any]

LONGEST_SIDE = 448
"""Of the pictures that selectors are given, in pixels: 1024 of them in wide screen take 350 MB."""


@dataclass(frozen=True, slots=True)
class Hiding:
    """What is hidden where, and how many frames may be picked."""

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    depths: tuple[float, ...] = (0, 25, 50, 75, 100)
    """In percent."""
    budgets: tuple[int, ...] = (1, 4, 8)
    spread: float | None = None
    """Percent of the length by which a needle may lie off its depth; None for as much as leaves no gap between the depths."""
    lures: int = 0
    """Further needles that are hidden beside the one that is asked about."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lengths", "depths", "budgets"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} must be different numbers, at least one, found {list(values)}")
        if min(self.budgets) < 1 or max(self.budgets) > min(self.lengths):
            raise BudgetError(
                f"budgets must lie between 1 and the smallest number of candidates ({min(self.lengths)}), "
                f"found {list(self.budgets)}"
            )
        if not all(0 <= depth <= 100 for depth in self.depths):
            raise ConfigError(f"depths are percent, 0 to 100, found {list(self.depths)}")
        if self.lures < 0 or not 0 <= self.reach <= 100:
            raise ConfigError(
                f"expected 0 or more lures and a spread of 0 to 100 %, found {self.lures} and {self.reach:g}"
            )

    @property
    def reach(self) -> float:
        """The spread in percent: half the largest distance between neighbouring depths where none is stated."""
        if self.spread is not None:
            return self.spread
        return float(max(np.diff(sorted(self.depths)), default=0.0)) / 2


@dataclass(frozen=True, slots=True)
class Film:
    """The candidates of a film at one length."""

    candidates: Candidates
    duration_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One needle at one depth: what all selectors are asked about together."""

    length: int
    depth: float
    needle: str


def load_film(path: Path, length: int) -> Film:
    """Decode evenly spread candidates of a film.

    Raises:
        VideoError: if it cannot be read.
        BudgetError: if it has fewer frames.
    """
    with VideoReader(path) as reader:
        info = reader.info
        if length > info.num_frames:
            raise BudgetError(f"asked for {length} candidates, but {path} has {info.num_frames} frames; ask for fewer")
        indices = uniform_u1(info.num_frames, length)
        scale = min(1.0, LONGEST_SIDE / max(info.height, info.width))
        size = (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
        pictures = reader.read(indices, size)
        return Film(Candidates(str(path), pictures, indices, reader.times[indices]), info.duration_s)


def check_lengths(path: Path, lengths: Sequence[int]) -> None:
    """Refuse more candidates than a film has frames, before the first needle is hidden.

    Raises:
        VideoError: if the film cannot be read.
        BudgetError: naming the lengths that it is too short for.
    """
    with VideoReader(path) as reader:
        frames = reader.info.num_frames
    if too_many := [str(length) for length in sorted(lengths) if length > frames]:
        raise BudgetError(
            f"{path} has {frames} frames, asked for {', '.join(too_many)} candidates; "
            f"give --lengths of at most {frames}, or a longer film"
        )


def hide(film: Candidates, needles: Sequence[Needle], starts: IntArray) -> Candidates:
    """The film with needles in place of some of its pictures; the film itself is left as it is."""
    pictures = film.frames.copy()
    for needle, start in zip(needles, starts.tolist(), strict=True):
        shown = slice(start, start + len(needle.pictures))
        pictures[shown] = needle.shown_on(film.frames[shown])
    return replace(film, frames=pictures)


def needle_recall(picked: IntArray, start: int, size: int) -> float:
    """Share of the needle's frames that were picked; of K of them where it has more than K."""
    found = int(((picked >= start) & (picked < start + size)).sum())
    return found / min(size, len(picked))


def run_needle(
    haystack: Path,
    needles: Sequence[Needle],
    selectors: Sequence[Selector],
    hiding: Hiding,
    output: Path,
    settings: Mapping[str, Any],
    *,
    answering: Answering | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run every cell that is not yet in ``output``; write ``needle.json`` and ``needle.svg`` there and return the former.

    ``needle.jsonl`` grows cell by cell. ``progress`` is called once a cell: see :func:`cells`.

    Raises:
        VideoError: if the film cannot be read.
        BudgetError: if it has too few frames.
        ConfigError: if ``output`` holds results of other settings.
    """
    if hiding.lures >= len(needles):
        raise DataError(f"{hiding.lures} lures need as many further needles, found {len(needles)} in all; add some")
    check_lengths(haystack, hiding.lengths)
    known = {needle.id: place for place, needle in enumerate(needles)}
    asked = [(selector.name, budget) for selector in selectors for budget in hiding.budgets]
    journal = begin(output / "needle.jsonl", {"kind": "needle", "settings": dict(settings)})
    finished = journal.keep_finished(
        {cell: set(asked) for cell in cells(needles, hiding)},
        unit=lambda row: Cell(row["length"], row["depth"], row["needle"]),
        key=lambda row: (row["selector"], row["budget"]),
    )
    for length in hiding.lengths:
        here = [cell for cell in cells(needles, hiding) if cell.length == length]
        film = load_film(haystack, length) if set(here) - finished else None
        for cell in here:
            if film is not None and cell not in finished:
                journal.append(_cell(film, needles, known[cell.needle], cell, selectors, hiding, answering))
            progress()
    results: dict[str, Any] = {
        "kind": "needle",
        "settings": dict(settings),
        "rows": summarise(journal.rows),
        "failures": failures(journal.rows),
    }
    write_json(output / "needle.json", results)
    for value, name in (("recall", "needle.svg"), ("accuracy", "needle-accuracy.svg")):
        if figure := heat_map(results["rows"], value):
            write_text(output / name, standalone(figure))
    return results


def cells(needles: Sequence[Needle], hiding: Hiding) -> list[Cell]:
    """Every needle at every depth of every length."""
    return [
        Cell(length, depth, needle.id) for length in hiding.lengths for depth in hiding.depths for needle in needles
    ]


def _cell(
    film: Film,
    needles: Sequence[Needle],
    target: int,
    cell: Cell,
    selectors: Sequence[Selector],
    hiding: Hiding,
    answering: Answering | None,
) -> Iterator[Row]:
    """A row for every selector and budget; what fails has found nothing, and says why."""
    rng = np.random.default_rng([hiding.seed, cell.length, round(cell.depth * 1000), target])
    others = np.setdiff1d(np.arange(len(needles)), [target])
    hidden = [needles[target], *(needles[i] for i in rng.choice(others, hiding.lures, replace=False))]
    starts = places(cell.length, cell.depth, [len(n.pictures) for n in hidden], 0, hiding.reach, rng)
    candidates = hide(film.candidates, hidden, starts)
    for selector in selectors:
        picked: list[tuple[int, Pick]] = []
        error = None
        try:
            opened = selector.open(candidates)
            picked = [(budget, opened.pick([hidden[0].question], budget)[0]) for budget in hiding.budgets]
        except OF_ONE_VIDEO as problem:
            error = str(problem)
        said, problem_of_model = _answers(candidates, film.duration_s, hidden[0], picked, answering)
        for place, budget in enumerate(hiding.budgets):
            row: Row = {
                "length": cell.length,
                "depth": cell.depth,
                "needle": cell.needle,
                "selector": selector.name,
                "budget": budget,
                "start": int(starts[0]),
                "positions": np.sort(picked[place][1].positions).tolist() if picked else [],
                "recall": needle_recall(picked[place][1].positions, int(starts[0]), len(hidden[0].pictures))
                if picked
                else 0.0,
                "correct": None if answering is None or hidden[0].answer is None else False,
                "error": error or problem_of_model,
            }
            yield row | ({"correct": said[place]["correct"], "margin": said[place].get("margin")} if said else {})


def _answers(
    candidates: Candidates,
    duration_s: float,
    needle: Needle,
    picked: Sequence[tuple[int, Pick]],
    answering: Answering | None,
) -> tuple[list[Row], str | None]:
    """What the model answers to each budget's frames; nothing where nobody answers, with the reason if that is a failure."""
    example = needle.example(candidates.video)
    if answering is None or example is None or not picked:
        return [], None
    chosen = [np.sort(pick.positions) for _, pick in picked]
    shown = np.unique(np.concatenate(chosen))
    try:
        features = answering.model.encode(scaled(candidates.frames[shown], answering.model.image_size))
        asked = [(example, np.searchsorted(shown, positions)[None]) for positions in chosen]
        rows = verdicts(asked, features, candidates.times[shown], duration_s, answering)
    except OF_ONE_VIDEO as error:
        return [], str(error)
    return [row for (row,) in rows], None


def summarise(rows: Sequence[Row]) -> list[Row]:
    """The mean over needles for every selector, budget, length and depth, with its interval.

    A failed row has recall 0 and is wrong. Accuracy is over needles with an answer, and None where there are none.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in ("selector", "budget", "length", "depth")), []).append(row)
    lines = []
    for (selector, budget, length, depth), group in groups.items():
        line: Row = {"selector": selector, "budget": budget, "length": length, "depth": depth}
        line |= {"n": len(group), "failed": sum(row["error"] is not None for row in group)}
        for name, key in (("recall", "recall"), ("accuracy", "correct")):
            line |= mean_line(name, [float(row[key]) for row in group if row[key] is not None])
        lines.append(line)
    return lines


def failures(rows: Sequence[Row]) -> list[Row]:
    """Every reason with the number of rows that it cost."""
    reasons = [row["error"] for row in rows if row["error"]]
    return [{"reason": reason, "rows": reasons.count(reason)} for reason in dict.fromkeys(reasons)]
