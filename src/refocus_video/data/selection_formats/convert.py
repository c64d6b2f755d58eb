"""From published frame lists to rows of a selection file: each put in order, each fault counted, none mended in silence.

Frames are listed in temporal order, each once. A frame that the video does not have leaves the question without frames: what the
authors showed their model cannot be known.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from refocus_video.data.selection_formats.listed import About, Listed
from refocus_video.data.selections import Chosen
from refocus_video.errors import DataError, VideoError
from refocus_video.types import Example, FloatArray

FrameTimes = Callable[[str], FloatArray | None]
"""Presentation time of every frame of a video, or None where the file is not at hand; may raise :class:`VideoError`."""


@dataclass(slots=True)
class Tally:
    """What became of the lists."""

    listed: int = 0
    written: int = 0
    other_questions: int = 0
    """Lists for questions that are not among those given."""
    not_listed: int = 0
    """Questions without a list."""
    without_frames: int = 0
    """Rows that say why they have no frames."""
    unsorted: int = 0
    """Lists that were put in order, not counting those that tell which frame was picked first."""
    repeated: int = 0
    """Lists that named a frame more than once."""
    repeats: int = 0
    """Frames left away because they were named before."""
    beyond: int = 0
    """Lists with a frame that the video does not have."""
    short: int = 0
    """Lists with fewer frames than the budget, after repeats are gone."""
    with_times: int = 0
    """Rows whose times are those of the video."""
    largest_shift_s: float = 0.0
    """Between a time that a list gives and that of the nearest frame."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Videos at hand that cannot be read, with the reason."""


def identified(entries: Iterable[Listed], order: Sequence[str]) -> Iterator[Listed]:
    """The same entries, those without an id given the id at their place in ``order``.

    Raises:
        DataError: there are more or fewer entries than ids: then no place can be trusted.
    """
    found = list(entries)
    if not any(not entry.about.id for entry in found):
        yield from found
        return
    if len(found) != len(order):
        raise DataError(
            f"{len(found)} lists, told by their order alone, for {len(order)} questions; "
            "give the benchmark's own file, complete and in its order, as --order"
        )
    for entry, id in zip(found, order, strict=True):
        yield Listed(entry.where, About(id), entry.frames, entry.times, entry.ranked, entry.error)


def convert(
    entries: Sequence[Listed],
    questions: Mapping[str, Example] | None,
    selector: str,
    budget: int | None,
    frame_times: FrameTimes,
    tally: Tally,
) -> Iterator[Chosen]:
    """Rows of a selection file.

    Args:
        entries: with ids.
        questions: the examples by id; None takes every entry as it names itself.
        selector: who chose.
        budget: frames asked for; None stands for the longest list.
        frame_times: of a video.
        tally: is filled on the way.

    Raises:
        DataError: a question is listed twice, or a list is longer than the budget and does not tell which frames come first.
    """
    asked = budget or max((len(entry.frames or entry.times) for entry in entries), default=0)
    if asked < 1:
        raise DataError("no list has any frames")
    seen: dict[str, str] = {}
    for entry in entries:
        id = entry.about.id
        if id in seen:
            raise DataError(f"{entry.where}: {id!r} was already in {seen[id]}")
        seen[id] = entry.where
        tally.listed += 1
        if questions is not None and id not in questions:
            tally.other_questions += 1
            continue
        tally.written += 1
        yield _chosen(entry, None if questions is None else questions[id], selector, asked, frame_times, tally)
    tally.not_listed = 0 if questions is None else len(questions.keys() - seen.keys())


def _chosen(
    entry: Listed, example: Example | None, selector: str, budget: int, frame_times: FrameTimes, tally: Tally
) -> Chosen:
    about = entry.about if example is None else About(entry.about.id, example.video, example.question.text)
    video = about.video or about.id
    listed, by_time = _first(entry, budget), bool(entry.times)
    error = entry.error or ("" if listed else "its list is empty")
    timeline = _of_video(video, frame_times, tally)
    if timeline is not None and not error:
        listed, error = (_nearest if by_time else _existing)(listed, timeline, tally)
        by_time = False
        tally.beyond += bool(error)
    kept = [] if error else _in_order(listed, entry, tally)
    frames = [] if by_time else [int(index) for index in kept]
    tally.without_frames += bool(error)
    tally.with_times += timeline is not None and bool(frames)
    tally.short += 0 < len(kept) < budget
    return Chosen(
        id=about.id,
        video=video,
        question=about.question,
        selector=selector,
        budget=budget,
        frame_indices=frames,
        times=kept if by_time else [] if timeline is None else [round(float(timeline[index]), 6) for index in frames],
        error=error or None,
    )


def _of_video(video: str, frame_times: FrameTimes, tally: Tally) -> FloatArray | None:
    try:
        return frame_times(video)
    except VideoError as error:
        tally.unreadable[video] = str(error)
        return None


def _first(entry: Listed, budget: int) -> tuple[float, ...]:
    listed = entry.frames or entry.times
    if len(listed) > budget and not entry.ranked:
        raise DataError(
            f"{entry.where}: lists {len(listed)} frames and does not tell which come first; the budget cannot be {budget}"
        )
    return listed[:budget]


def _existing(listed: Sequence[float], times: FloatArray, tally: Tally) -> tuple[tuple[float, ...], str]:
    """The same frames; an error where the video does not have one."""
    last = int(max(listed))
    return tuple(listed), "" if last < len(
        times
    ) else f"frame {last} is listed; the video has frames 0..{len(times) - 1}"


def _nearest(listed: Sequence[float], times: FloatArray, tally: Tally) -> tuple[tuple[float, ...], str]:
    """The frame nearest to each time; an error where a time lies outside the video."""
    wanted = np.asarray(listed)
    step = float(np.diff(times).max()) if len(times) > 1 else 0.0
    outside = (wanted < times[0] - step) | (wanted > times[-1] + step)
    if outside.any():
        return (), f"a frame at {wanted[outside][0]:g} s is listed; the video goes from {times[0]:g} to {times[-1]:g} s"
    right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    nearest = np.where(wanted - times[left] <= times[right] - wanted, left, right)
    tally.largest_shift_s = max(tally.largest_shift_s, float(np.abs(times[nearest] - wanted).max()))
    return tuple(nearest.tolist()), ""


def _in_order(values: Sequence[float], entry: Listed, tally: Tally) -> list[float]:
    kept = sorted(set(values))
    tally.unsorted += list(values) != sorted(values) and not entry.ranked
    tally.repeats += len(values) - len(kept)
    tally.repeated += len(kept) < len(values)
    return kept
