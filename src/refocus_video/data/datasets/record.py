"""What a reader makes of one row of an annotation file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refocus_video.types import Example, Question, Span


@dataclass(frozen=True, slots=True)
class Record:
    """A question whose video has not been looked up yet."""

    example: Example
    """Its ``video`` is the data set's name of the video."""
    videos: tuple[str, ...]
    """Names under which the file may lie, the surest first: a path below the folder of videos, with or without its extension."""
    frames: tuple[int, ...] = ()
    """Frame indices that hold the evidence, for data sets that give no times."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that is well-formed and yet no question to work with."""

    id: str
    reason: str


def make(
    id: str,
    videos: tuple[str, ...],
    question: str,
    *,
    options: tuple[str, ...] = (),
    answer: int | None = 0,
    accepted: tuple[str, ...] = (),
    evidence: tuple[Span, ...] = (),
    question_type: str = "",
    metadata: Mapping[str, Any] | None = None,
    frames: tuple[int, ...] = (),
) -> Record | Unusable:
    """A record, or why the row cannot be one. ``answer`` is None where the data set keeps it secret."""
    if answer is None:
        return Unusable(id, "the file gives no answer")
    if len(options) == 1:
        return Unusable(id, "only one option")
    if len(set(options)) < len(options):
        return Unusable(id, "two options are the same text")
    known = {key: value for key, value in (metadata or {}).items() if value is not None}
    example = Example(
        id,
        videos[0],
        Question(question, options),
        answer,
        evidence,
        question_type,
        known,
        tuple(dict.fromkeys(accepted)),
    )
    return Record(example, videos, frames)
