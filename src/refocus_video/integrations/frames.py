"""The frames of every question of a run: chosen before a model answers, read from the video when it does.

Questions without frames keep their place: they are counted with the reason, and whoever asks says what their answer is.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from refocus_video.config import SamplingConfig
from refocus_video.data.selections import FORMAT, Chosen, check_frames, chosen_row, empty_row, read_selections
from refocus_video.errors import OF_ONE_VIDEO, ConfigError, DataError, VideoError
from refocus_video.evaluate.journal import Journal
from refocus_video.integrations.messages import Clip, Frame
from refocus_video.reference.pixels import size_within
from refocus_video.selectors.base import Selector, to_selection
from refocus_video.types import Question, Timeline
from refocus_video.video.candidates import candidate_timeline
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices

TOLERANCE_S = 0.1
"""How far the time of a selection file may be from that of the video before it must be another video."""

Key = tuple[Clip, Question]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one video."""

    id: str
    """Of the record that it belongs to; a record may ask about several videos."""
    clip: Clip
    question: Question

    @property
    def key(self) -> Key:
        """What the choice depends on."""
        return self.clip, self.question


class Source(Protocol):
    """Where the choice of frames comes from."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the choice depends on besides video and question."""
        ...

    @property
    def budget(self) -> int:
        """Frames wanted for each question."""
        ...

    def choose(self, clip: Clip, asked: Sequence[Asked]) -> list[Chosen]:
        """A row for each question about a video, with frames or with the reason why there are none."""
        ...


@dataclass(frozen=True, slots=True)
class Choosing:
    """A selector chooses. A video with fewer candidates than wanted shows all of them."""

    selector: Selector
    budget: int
    sampling: SamplingConfig
    described: str
    """The selector with its settings, for the manifest."""

    @property
    def manifest(self) -> dict[str, Any]:
        """Selector, budget and candidates."""
        sampling = self.sampling.model_dump(mode="json")
        return {"selectors": [self.described], "budget": self.budget, "sampling": sampling}

    def choose(self, clip: Clip, asked: Sequence[Asked]) -> list[Chosen]:
        """See :class:`Source`. The video is looked at once for all its questions."""
        begun = time.perf_counter()
        try:
            candidates = clip_timeline(clip, self.sampling)
            opened = self.selector.open(candidates)
            picks = opened.pick([one.question for one in asked], min(self.budget, len(candidates)))
        except OF_ONE_VIDEO as error:
            return [_without(one, self.selector.name, self.budget, str(error)) for one in asked]
        seconds = (time.perf_counter() - begun) / len(asked)
        return [
            chosen_row(
                to_selection(pick, candidates, one.question, self.selector.name),
                one.id,
                self.budget,
                candidates,
                seconds,
            )
            for one, pick in zip(asked, picks, strict=True)
        ]


class Given:
    """A selection file made before says which frames."""

    def __init__(self, path: Path, budget: int, selector: str | None = None) -> None:
        """Read the file.

        Args:
            path: a selection file.
            budget: frames wanted; rows of other budgets are not looked at.
            selector: whose rows; may be left out if the file has one selector only.

        Raises:
            DataError: if the file cannot be read, or has nothing for this selector and budget.
        """
        rows = read_selections(path).rows
        names = list(dict.fromkeys(row.selector for row in rows))
        if selector is None and len(names) > 1:
            raise DataError(f"{path} holds the frames of several selectors; name one of them: {', '.join(names)}")
        name = names[0] if selector is None else selector
        found = [row for row in rows if (row.selector, row.budget) == (name, budget)]
        if not found:
            have = sorted({(row.selector, row.budget) for row in rows})
            listed = ", ".join(f"{name} at {budget}" for name, budget in have)
            raise DataError(f"{path} has no frames by {name} at {budget}; it has {listed}")
        self.budget = budget
        self.manifest = {"selections": str(path), "selector": name, "budget": budget}
        self._by_id = {row.id: row for row in found}
        self._by_video: dict[str, list[Chosen]] = {}
        for row in found:
            self._by_video.setdefault(_name(row.video), []).append(row)
        self._path, self._selector = path, name

    def choose(self, clip: Clip, asked: Sequence[Asked]) -> list[Chosen]:
        """See :class:`Source`."""
        return [self._row(one) for one in asked]

    def _row(self, one: Asked) -> Chosen:
        """The row of this id if it is about this video, else the only one of this video with this question."""
        row = self._by_id.get(one.id)
        if row is None or _name(row.video) != _name(one.clip.path):
            rows = [row for row in self._by_video.get(_name(one.clip.path), []) if _asks(row, one.question)]
            if len(rows) != 1:
                count = "no row" if not rows else f"{len(rows)} rows"
                reason = f"{self._path.name} has {count} for this question about {_name(one.clip.path)}"
                return _without(one, self._selector, self.budget, reason)
            row = rows[0]
        return row.model_copy(update={"id": one.id, "video": one.clip.path, "question": one.question.text})


def _name(video: str) -> str:
    """A video goes by its file name without the ending: folders differ from machine to machine."""
    return Path(video.replace("\\", "/")).stem


def _asks(row: Chosen, question: Question) -> bool:
    """Whether a row is about this question, or about one whose text is part of it, as in a prompt."""
    return bool(row.question.strip()) and row.question.strip() in question.text


def _without(one: Asked, selector: str, budget: int, reason: str) -> Chosen:
    return empty_row(one.id, one.clip.path, one.question.text, selector, budget, reason)


def clip_timeline(clip: Clip, sampling: SamplingConfig) -> Timeline:
    """The candidate frames of a video, or of the stretch of it that is meant: the same number a second, within its limits.

    Raises:
        VideoError: if it cannot be read, or no frame lies in the stretch.
    """
    with VideoReader(clip.path) as reader:
        if clip.start_s is None and clip.end_s is None:
            return candidate_timeline(reader, sampling)
        inside = np.flatnonzero(_within(reader.times, clip))
        if not len(inside):
            raise VideoError(f"{clip}: no frame lies in this stretch; the video ends at {reader.times[-1]:.1f} s")
        length = float(reader.times[inside[-1]] - reader.times[inside[0]]) + reader.info.duration_s / len(reader.times)
        indices = inside[candidate_indices(len(inside), length, sampling.fps, sampling.max_frames)]
        return Timeline(clip.path, indices, reader.times[indices])


def _within(times: Any, clip: Clip) -> Any:
    start = -np.inf if clip.start_s is None else clip.start_s
    return (times >= start) & (times <= (np.inf if clip.end_s is None else clip.end_s))


def read_frames(row: Chosen, clip: Clip, pixels: int) -> list[Frame]:
    """The frames of a row with their true times, as pictures of at most ``pixels`` pixels (0: as they are).

    Raises:
        DataError: if the row names frames that the video, or the stretch, does not have, or tells other times than the video.
        VideoError: if the video cannot be read.
    """
    with VideoReader(clip.path) as reader:
        check_frames(row, reader.info.num_frames)
        times = reader.times[row.frame_indices]
        if row.times and np.abs(times - row.times).max() > TOLERANCE_S:
            worst = int(np.abs(times - row.times).argmax())
            raise DataError(
                f"the selection for {row.id!r} has frame {row.frame_indices[worst]} at {row.times[worst]:.2f} s; in {clip.path} "
                f"it is at {times[worst]:.2f} s. It was made for another video"
            )
        if not _within(times, clip).all():
            raise DataError(f"the selection for {row.id!r} has frames outside of {clip}")
        shape = reader.info.height, reader.info.width
        size = size_within(shape, 1, pixels) if 0 < pixels < shape[0] * shape[1] else None
        pictures = reader.frames(row.frame_indices, size)
        return [(float(time), Image.fromarray(picture)) for time, (_, picture) in zip(times, pictures, strict=True)]


class Frames:
    """What was chosen in a run, and what could not be."""

    def __init__(self, source: Source, *, pixels: int = 0, save: Path | None = None) -> None:
        """Begin a run.

        Args:
            source: who chooses.
            pixels: the most of a frame that is shown; 0 for no limit.
            save: the selection file to write. What is in it already is not chosen again, except where frames were missing.

        Raises:
            ConfigError: if ``save`` was made with other settings.
        """
        self._source, self._pixels = source, pixels
        self._rows: dict[Key, Chosen] = {}
        self._unreadable: dict[Key, str] = {}
        self._keys: dict[str, list[Key]] = {}
        self._lock = threading.RLock()
        self._journal = None if save is None else _open_journal(save, source.manifest)
        old = [Chosen.model_validate(row) for row in self._journal.rows] if self._journal else []
        self._saved = {(row.id, row.video, row.question): row for row in old}

    def choose(self, asked: Sequence[Asked], progress: Callable[[], None] = lambda: None) -> None:
        """Choose for all questions that are new, video by video; ``progress`` is called after each of the questions."""
        with self._lock:
            groups: dict[Clip, dict[Question, Asked]] = {}
            for one in asked:
                named = self._named(one)
                if one.key not in self._rows:
                    groups.setdefault(one.clip, {}).setdefault(one.question, named)
            for clip, questions in groups.items():
                self._choose_in(clip, list(questions.values()))
                for _ in questions:
                    progress()

    def _choose_in(self, clip: Clip, asked: Sequence[Asked]) -> None:
        saved = {one.key: self._saved.get((one.id, clip.path, one.question.text)) for one in asked}
        rest = [one for one in asked if saved[one.key] is None]
        rows = self._source.choose(clip, rest) if rest else []
        if self._journal is not None:
            self._journal.append(row.model_dump(mode="json", exclude_none=True) for row in rows)
        self._rows |= {key: row for key, row in saved.items() if row is not None}
        self._rows |= {one.key: row for one, row in zip(rest, rows, strict=True)}

    def _named(self, one: Asked) -> Asked:
        """The question with an id of its own: the second video, or the second question, of a record has ``#2`` behind it."""
        keys = self._keys.setdefault(one.id, [])
        if one.key not in keys:
            keys.append(one.key)
        number = keys.index(one.key) + 1
        return one if number == 1 else replace(one, id=f"{one.id}#{number}")

    def show(self, one: Asked) -> list[Frame]:
        """The frames of a question; none where there are none, which :meth:`failure` then tells."""
        self.choose([one])
        row = self._rows[one.key]
        if row.error:
            return []
        try:
            return read_frames(row, one.clip, self._pixels)
        except OF_ONE_VIDEO as error:
            self._unreadable[one.key] = str(error)
            return []

    def failure(self, id: str) -> str | None:
        """Why a record has no frames, or lacks those of one of its videos; None if all is well."""
        for key in self._keys.get(id, []):
            reason = self._unreadable.get(key) or self._rows[key].error
            if reason:
                return reason
        return None

    def failures(self) -> Counter[str]:
        """The records without frames, by reason."""
        return Counter(reason for id in self._keys if (reason := self.failure(id)))

    def report(self) -> list[str]:
        """What happened, a line for each thing."""
        failures = self.failures()
        budget = self._source.budget
        few = sum(0 < len(row.frame_indices) < budget for row in self._rows.values())
        lines = [
            f"{len(self._keys)} questions about videos, {budget} frames a video; {failures.total()} without frames"
        ]
        if few:
            lines.append(f"{few} of {len(self._rows)} choices have fewer frames: all candidates of a short video")
        return lines + [f"without frames, {count}×: {reason}" for reason, count in failures.most_common()]


def _open_journal(path: Path, manifest: dict[str, Any]) -> Journal:
    head = {"format": FORMAT} | manifest
    journal = Journal(path, {"manifest": head})
    if journal.rows:
        found = read_selections(path).manifest
        if found != head:
            raise ConfigError(f"{path} was made with {found}, not {head}; give another file")
    # What failed may work now; what is chosen stays.
    journal.keep_finished(
        {row["id"]: {True} for row in journal.rows}, lambda row: row["id"], lambda row: "error" not in row
    )
    return journal
