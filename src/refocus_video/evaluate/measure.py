"""Selection files against evidence, without a model and without videos: what ``refocus quality`` computes.

Denominators are fixed before anything is looked at: every question counts for every selector and budget, and one without frames
(or whose frames have no times) counts as finding nothing and covering nothing, and as missing. How redundant frames are and where
they lie is told of the choices there are.

Scene measures are over the questions whose evidence is known. Intervals are drawn over videos (``evaluate/metrics.py``).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.data.examples import read_examples
from refocus_video.data.scenes import Scenes, read_scenes, scenes_of
from refocus_video.data.selections import Chosen, check_same_pools, read_selections
from refocus_video.errors import DataError
from refocus_video.evaluate import quality
from refocus_video.evaluate.metrics import Row, bootstrap_interval, with_ends
from refocus_video.types import Example

SCENE_MEASURES = quality.Found._fields
SPREAD_MEASURES = ("coverage", "largest_gap", "crowding", "entropy")
COLUMNS = (
    "id", "video", "selector", "budget", "frames", "seconds", "scenes", *SCENE_MEASURES, *SPREAD_MEASURES, "missing",
)  # fmt: skip
"""Of the CSV, one row for each question, selector and budget."""

REACH_S = 5.0
"""Seconds around a frame that it covers, if nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions, and what is known of them."""

    videos: Mapping[str, str]
    """The video of each question by its id: the denominator."""
    scenes: Mapping[str, Scenes]
    """What must be seen, by question id; questions whose evidence is unknown are left out."""
    seconds: Mapping[str, float]
    """How long each video is."""
    reach_s: float = REACH_S


def run_quality(
    selections: Sequence[Path], questions: Path | None, evidence: Path | None = None, reach_s: float = REACH_S
) -> tuple[dict[str, Any], list[Row]]:
    """Measure selection files.

    Args:
        selections: the files; what they chose must be from the same candidates.
        questions: JSONL of questions; None takes those of the evidence file.
        evidence: an evidence file (``data/scenes.py``); the questions' own evidence is used where it has none for a question.
        reach_s: see :func:`~refocus_video.evaluate.quality.coverage`.

    Returns:
        What is printed: ``rows`` (one for each selector and budget), ``pairs``, counts; and the rows of the CSV.

    Raises:
        DataError: nothing can be measured, or choices cannot be compared.
    """
    if questions is None and evidence is None:
        raise DataError("nothing to measure against: give --questions, or --evidence with the questions it knows")
    if not 0 < reach_s < math.inf:
        raise DataError(f"--within must be a number of seconds above 0, found {reach_s}")
    examples = [] if questions is None else read_examples(questions)
    found = [row for path in selections for row in read_selections(path).rows]
    scenes = scenes_of(examples) | ({} if evidence is None else read_scenes(evidence))
    videos = {e.id: e.video for e in examples}
    if questions is None:
        videos = {id: id for id in scenes} | {row.id: row.video for row in found if row.id in scenes}
    rows = [row.model_copy(update={"video": videos[row.id]}) for row in found if row.id in videos]
    if not rows:
        raise DataError(
            f"none of {len(found)} selections is for one of the {len(videos)} questions, such as {next(iter(videos))!r}"
        )
    if not any(row.times for row in rows):
        raise DataError("no selection has times; import them again with the videos at hand")
    check_same_pools(rows)
    scenes = {id: of_question for id, of_question in scenes.items() if id in videos}
    stated = {e.video: float(seconds) for e in examples if (seconds := stated_seconds(e)) is not None}
    asked = Asked(videos, scenes, video_seconds(rows, videos, scenes, stated), reach_s)
    measured = measure(rows, asked)
    about = {
        "questions": len(videos),
        "with_evidence": len(scenes),
        "reach_s": reach_s,
        "videos_of_stated_length": len(stated),
        "videos_of_last_known_time": len(asked.seconds.keys() - stated.keys()),
        "unknown_pools": sum(row.pool is None and not row.error for row in rows),
        "other_questions": len({row.id for row in found} - videos.keys()),
    }
    return about | {"rows": summarise(measured), "pairs": compare(rows, asked)}, measured


def stated_seconds(example: Example) -> float | None:
    """How long the data set says that the video is, as ``duration`` or ``duration_s``; None if it gives no number."""
    found = (example.metadata.get(name) for name in ("duration", "duration_s"))
    return next((float(s) for s in found if isinstance(s, int | float) and 0 < s < math.inf), None)


def video_seconds(
    rows: Iterable[Chosen], videos: Mapping[str, str], scenes: Mapping[str, Scenes], stated: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of each video: as stated, or up to the last time that any choice or scene names; the longer of both."""
    seconds = dict.fromkeys(videos.values(), 0.0) | dict(stated)
    for row in rows:
        seconds[row.video] = max([seconds[row.video], *row.times])
    for id, of_question in scenes.items():
        video = videos[id]
        # A scene may be said to end after the video does.
        if video not in stated:
            seconds[video] = max([seconds[video], *(span.start_s for scene in of_question for span in scene)])
    return seconds


def measure(rows: Sequence[Chosen], asked: Asked) -> list[Row]:
    """One row for every question, selector and budget, whether or not anything was chosen.

    Raises:
        DataError: two choices for one question by the same selector with as many frames.
    """
    chosen: dict[tuple[str, int], dict[str, Chosen]] = {}
    for row in rows:
        cell = chosen.setdefault((row.selector, row.budget), {})
        if row.id in cell:
            raise DataError(
                f"{row.id!r} at {row.budget} frames by {row.selector} is in two files; name one of them differently"
            )
        cell[row.id] = row
    return [
        {"id": id, "video": video, "selector": selector, "budget": budget} | _measured(cell.get(id), id, video, asked)
        for (selector, budget), cell in chosen.items()
        for id, video in asked.videos.items()
    ]


def _measured(row: Chosen | None, id: str, video: str, asked: Asked) -> Row:
    times, seconds = row.times if row else [], asked.seconds[video]
    scenes = asked.scenes.get(id)
    spread: tuple[float | None, ...] = (None, None)
    if times:
        spread = quality.crowding(times, seconds), quality.time_entropy(quality.relative(times, seconds))
    return {
        "frames": len(times),
        "seconds": seconds,
        "scenes": len(scenes or ()),
        **dict.fromkeys(SCENE_MEASURES),
        **(quality.found(times, scenes)._asdict() if scenes else {}),
        "coverage": quality.coverage(times, seconds, asked.reach_s),
        "largest_gap": quality.largest_gap(times, seconds),
        "crowding": spread[0],
        "entropy": spread[1],
        "missing": _missing(row),
        "bins": quality.time_distribution(quality.relative(times, seconds)),
    }


def _missing(row: Chosen | None) -> str | None:
    if row is None:
        return "no row"
    if not row.times:
        return "frames without times" if row.frame_indices else "nothing chosen"
    return None


def summarise(measured: Sequence[Row], seed: int = 0) -> list[Row]:
    """One row for each selector and budget: means with the ends of their intervals, the data set's UKSS, and what was missing."""
    cells: dict[tuple[str, int], list[Row]] = {}
    for row in measured:
        cells.setdefault((row["selector"], row["budget"]), []).append(row)
    return [{"selector": selector, "budget": budget} | _line(rows, seed) for (selector, budget), rows in cells.items()]


def _line(rows: list[Row], seed: int) -> Row:
    line: Row = {
        "n": len(rows),
        "missing": dict(Counter(row["missing"] for row in rows if row["missing"])),
        "short": sum(0 < row["frames"] < row["budget"] for row in rows),
    }
    for name in (*SCENE_MEASURES, *SPREAD_MEASURES):
        scale: Callable[[Any], Any] = quality.log_ukss if name == "ukss" else np.asarray
        back: Callable[[float], float] = math.exp if name == "ukss" else float
        known = [row for row in rows if row[name] is not None]
        if not known:
            line |= with_ends(name, None, (math.nan, math.nan))
            continue
        values = scale([row[name] for row in known])
        low, high = bootstrap_interval(values, [row["video"] for row in known], seed=seed)
        line |= with_ends(name, back(float(values.mean())), (back(low), back(high)))
    there = [row["bins"] for row in rows if not row["missing"]]
    shares = np.mean(there, axis=0) if there else np.zeros(quality.BINS)
    return line | {
        "position_bias": quality.kl_to_uniform(shares),
        "positions": [round(float(share), 6) for share in shares],
    }


def compare(rows: Sequence[Chosen], asked: Asked) -> list[Row]:
    """How alike any two selectors choose at one budget, over the questions for which both chose something.

    ``overlap`` is the mean Jaccard of the frames, ``divergence`` the mean Jensen–Shannon divergence (nats) of their distributions
    over the equal parts of the video.
    """
    cells: dict[int, dict[str, dict[str, Chosen]]] = {}
    for row in rows:
        if row.times:
            cells.setdefault(row.budget, {}).setdefault(row.selector, {})[row.id] = row
    pairs = []
    for budget, selectors in cells.items():
        for (first, mine), (second, other) in combinations(selectors.items(), 2):
            both = [(mine[id], other[id]) for id in mine if id in other]
            if both:
                line = {"budget": budget, "first": first, "second": second, "n": len(both)}
                pairs.append(line | _alike(both, asked))
    return pairs


def _alike(both: Sequence[tuple[Chosen, Chosen]], asked: Asked) -> Row:
    shared, apart = [], []
    for a, b in both:
        indexed = bool(a.frame_indices and b.frame_indices)
        shared.append(
            quality.overlap(a.frame_indices, b.frame_indices) if indexed else quality.overlap(a.times, b.times)
        )
        seconds = asked.seconds[a.video]
        apart.append(
            quality.js_divergence(*(quality.time_distribution(quality.relative(c.times, seconds)) for c in (a, b)))
        )
    return {"overlap": float(np.mean(shared)), "divergence": float(np.mean(apart))}
