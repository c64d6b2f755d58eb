"""Where selectors look, from the rows of evaluations: what their choices share, and over which parts of the videos they spread."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from refocus_video.evaluate.quality import BINS, js_divergence, overlap, time_distribution
from refocus_video.types import FloatArray

T = TypeVar("T")
Row = dict[str, Any]
Square = list[list[float | None]]

FEWEST_PARTS = 4
"""Into which a video is cut to say where in it the picks lie."""


def looks(rows: Sequence[Row], budget: int) -> dict[str, Row]:
    """Where selectors look with one budget, by question file; the answering model has no part in it.

    Returns:
        For each question file ``budget``, ``selectors`` (S names), ``overlap`` (mean Jaccard index of the frames, S × S),
        ``spread`` (share of the picks in each part of the video, S × parts; as many parts as frames, 4 to 20), ``quarters`` (the
        same in quarters), ``divergence`` (Jensen–Shannon divergence of the spreads in nats, S × S) and ``unplaced``: choices from a
        pool of unknown size, which are in the overlap alone.
    """
    return {
        dataset: _of_file([row for row in rows if row["dataset"] == dataset and row["budget"] == budget], budget)
        for dataset in dict.fromkeys(row["dataset"] for row in rows if row["budget"] == budget and row["frame_indices"])
    }


def _of_file(rows: Sequence[Row], budget: int) -> Row:
    frames: dict[str, dict[str, Sequence[int]]] = {}
    places: dict[str, dict[str, list[float]]] = {}
    unplaced: set[tuple[str, str]] = set()
    for row in rows:
        if row["frame_indices"]:
            selector, question = row["selector"], row["id"]
            frames.setdefault(selector, {})[question] = row["frame_indices"]
            if row.get("positions") and row.get("candidates"):
                # The middle of the share that a candidate has of its video.
                found = [(position + 0.5) / row["candidates"] for position in row["positions"]]
                places.setdefault(selector, {})[question] = found
            else:
                unplaced.add((selector, question))
    pooled = [[t for own in places.get(name, {}).values() for t in own] for name in frames]
    # No more parts than frames: even spacing would leave some of them empty.
    spreads = [time_distribution(own, min(max(budget, FEWEST_PARTS), BINS)) for own in pooled]
    return {
        "budget": budget,
        "selectors": list(frames),
        "overlap": _pairs(list(frames.values()), _overlap),
        "spread": _rounded(spreads),
        "quarters": _rounded([time_distribution(own, 4) for own in pooled]),
        "divergence": _pairs(spreads, _divergence),
        "unplaced": len(unplaced),
    }


def _rounded(rows: Sequence[FloatArray]) -> list[list[float]]:
    return [[round(value, 4) for value in row.tolist()] for row in rows]


def _overlap(mine: Mapping[str, Sequence[int]], theirs: Mapping[str, Sequence[int]]) -> float | None:
    """Mean over the questions that both chose frames for; None if there are none."""
    shared = [overlap(chosen, theirs[question]) for question, chosen in mine.items() if question in theirs]
    return sum(shared) / len(shared) if shared else None


def _divergence(p: FloatArray, q: FloatArray) -> float | None:
    return js_divergence(p, q) if p.any() and q.any() else None


def _pairs(values: Sequence[T], of: Callable[[T, T], float | None]) -> Square:
    """A symmetric table, (S, S)."""
    table: Square = [[None] * len(values) for _ in values]
    for a, first in enumerate(values):
        for b, second in enumerate(values[: a + 1]):
            found = of(first, second)
            table[a][b] = table[b][a] = None if found is None else round(found, 4)
    return table
