"""Things to hide in a film for the needle test (``needle.py``): pictures or clips of the user, and cards that are drawn.

A needle of the user fills the whole picture. A card lies over the film's own picture, half as wide and half as high, as in
the generated videos (``data/haystack``), so that models trained on those can be tested over real film.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.data.haystack.render import CARD, card
from refocus_video.data.haystack.world import COLOR_NAMES, GLYPHS, TEMPLATES, Event
from refocus_video.errors import BudgetError, DataError, check_budget
from refocus_video.types import ByteArray, Example, IntArray, Question
from refocus_video.video.pixels import scaled
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import uniform_positions

NEEDLES_FILE = "needles.jsonl"
FIELDS = ("id", "needle", "question", "options", "answer")

Box = tuple[float, float, float, float]
"""Top, left, height and width as shares of a picture."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Needle:
    """Something to hide, and what is asked about it."""

    id: str
    question: Question
    pictures: ByteArray
    """(n, h, w, 3) uint8: shown one after the other."""
    answer: int | None = None
    """Position of the right option; None where only finding counts."""
    box: Box = WHOLE
    """Where in the film's picture it is shown."""

    def example(self, video: str) -> Example | None:
        """The question with its answer, about a video; None without an answer."""
        if self.answer is None:
            return None
        return Example(self.id, video, self.question, self.answer)

    @property
    def digest(self) -> str:
        """A short name for exactly these pictures."""
        return hashlib.sha256(np.ascontiguousarray(self.pictures).data).hexdigest()[:12]

    def shown_on(self, pictures: ByteArray) -> ByteArray:
        """The needle on n pictures of a film, (n, H, W, 3); those are left as they are."""
        height, width = pictures.shape[1:3]
        top, left = round(self.box[0] * height), round(self.box[1] * width)
        size = round(self.box[2] * height), round(self.box[3] * width)
        result = pictures.copy()
        result[:, top : top + size[0], left : left + size[1]] = scaled(self.pictures, size)
        return result


def card_needles(count: int, frames: int = 1, seed: int = 0) -> list[Needle]:
    """Cards of different colours and shapes, each with the question for its shape.

    The wrong options are shapes of other cards of the list.

    Args:
        count: how many, from 4 on.
        frames: for how many pictures each is shown.
        seed: of colours, shapes, places and options.

    Raises:
        DataError: for fewer than 4, or more than there are shapes.
    """
    if not 4 <= count <= len(GLYPHS):
        raise DataError(f"asked for {count} built-in cards; choose a number from 4 to {len(GLYPHS)}")
    rng = np.random.default_rng(seed)
    fills = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))[:count]]
    glyphs = [GLYPHS[i] for i in rng.permutation(len(GLYPHS))[:count]]
    found = []
    for place, (fill, glyph) in enumerate(zip(fills, glyphs, strict=True)):
        row, column = (int(v) for v in rng.integers(0, 3, 2))
        picture = card(Event(fill, glyph, fills[place - 1], 0, frames, row, column))
        lures = [other for other in glyphs if other != glyph]
        options = [glyph, *(lures[i] for i in rng.permutation(len(lures))[:3])]
        order = rng.permutation(4)
        found.append(
            Needle(
                id=f"card-{fill}",
                question=Question(TEMPLATES["color-to-shape"].format(fill), tuple(options[i] for i in order)),
                pictures=np.broadcast_to(picture, (frames, CARD, CARD, 3)),
                answer=int(np.flatnonzero(order == 0)[0]),
                box=(row / 4, column / 4, 0.5, 0.5),
            )
        )
    return found


def read_needles(source: Path, question: Question | None, answer: int | None, frames: int = 1) -> list[Needle]:
    """The needles of a picture or clip, of a folder with such, or of a JSONL file.

    A line of the file holds ``question``, ``needle`` (a picture or clip, looked up beside the file), and optionally ``id``,
    ``options`` and ``answer`` (position). A folder is read by its ``needles.jsonl``; without one, ``question`` is asked about
    everything in it.

    Args:
        source: what to read.
        question: for a source that holds none.
        answer: position of its right option.
        frames: for how many pictures each needle is shown; a clip gives evenly spaced ones.

    Raises:
        DataError: if the source and the question do not go together, or a line is wrong.
        VideoError: if a picture or clip cannot be read.
    """
    listed = source / NEEDLES_FILE if source.is_dir() else source
    if listed.suffix == ".jsonl" and listed.is_file():
        if question is not None:
            raise DataError(f"{listed} holds questions of its own; leave --question out")
        lines = listed.read_text(encoding="utf-8-sig").split("\n")
        found = [
            _parsed(line, f"{listed}, line {number}", listed.parent, frames)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    elif question is None:
        raise DataError(
            f"no question about the needle {source}; give one with --question, or a folder with {NEEDLES_FILE}"
        )
    else:
        paths = sorted(p for p in source.iterdir() if p.is_file() and p.name[0] != ".") if source.is_dir() else [source]
        found = [Needle(path.stem, question, read_pictures(path, frames), answer) for path in paths]
    names = [needle.id for needle in found]
    if not found or len(set(names)) < len(names):
        raise DataError(f"{source}: needles need different ids, found {', '.join(names) or 'no needle at all'}")
    return found


def read_pictures(path: Path, frames: int) -> ByteArray:
    """``frames`` pictures of a clip, evenly spaced; a picture again and again, (frames, h, w, 3) uint8.

    Raises:
        VideoError: if it cannot be read.
        DataError: for a clip that has fewer.
    """
    with VideoReader(path) as reader:
        count = reader.info.num_frames
        if 1 < count < frames:
            raise DataError(f"the needle {path} has {count} frames, asked for {frames}; ask for fewer")
        pictures = reader.read(uniform_positions(count, min(count, frames)))
    return np.broadcast_to(pictures, (frames, *pictures.shape[1:])) if count == 1 else pictures


def _parsed(line: str, where: str, folder: Path, frames: int) -> Needle:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object")
    unknown = [key for key in row if key not in FIELDS]
    if unknown:
        raise DataError(f"{where}, field {unknown[0]!r}: unknown; known fields are {', '.join(FIELDS)}")
    for key in ("needle", "question"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}, field {key!r}: expected a text, found {row.get(key)!r}")
    options, answer = row.get("options") or [], row.get("answer")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{where}, field 'options': expected a list of texts, found {options!r}")
    question = Question(row["question"], tuple(options))
    check_answer(question, answer, where)
    path = folder / row["needle"]
    return Needle(str(row.get("id") or path.stem), question, read_pictures(path, frames), answer)


def check_answer(question: Question, answer: Any, where: str) -> None:
    """Refuse an answer that is not the position of an option; None is one that is not known.

    Raises:
        DataError: naming what was found.
    """
    known = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(question.options)
    if answer is not None and not known:
        raise DataError(
            f"{where}: the answer must be the position of one of {len(question.options)} options, counted from 0; "
            f"found {answer!r}"
        )


def places(
    length: int, depth: float, needles: Sequence[int], target: int, spread: float, rng: np.random.Generator
) -> IntArray:
    """Where needles begin among the candidates, (N,): the target at its depth, the others anywhere, none touching another.

    Args:
        length: candidates (F).
        depth: of the target in percent: 0 is the beginning, 100 the end.
        needles: how many pictures each takes, (N,).
        target: which of them is asked about.
        spread: percent of the length by which the target may lie off its depth. Without any, evenly spaced frames would hit it
            always or never.
        rng: draws the places.

    Raises:
        BudgetError: if the needles do not fit.
    """
    check_budget(needles[target], length)
    latest = length - needles[target]
    low, high = (min(max(depth + off, 0.0), 100.0) / 100 * latest for off in (-spread, spread))
    starts = np.empty(len(needles), dtype=np.int64)
    starts[target] = round(float(rng.uniform(low, high)))
    free = np.ones(length + 1, dtype=bool)
    free[max(0, starts[target] - 1) : starts[target] + needles[target] + 1] = False
    for other, size in enumerate(needles):
        if other == target:
            continue
        fits = np.flatnonzero([free[start : start + size].all() for start in range(length - size + 1)])
        if not len(fits):
            raise BudgetError(
                f"{len(needles)} needles of {size} frames do not fit among {length} candidates; hide fewer"
            )
        starts[other] = rng.choice(fits)
        free[max(0, starts[other] - 1) : starts[other] + size + 1] = False
    return starts
