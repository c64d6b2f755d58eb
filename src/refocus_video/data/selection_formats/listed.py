"""What a reader makes of one question's entry in a published file."""

from dataclasses import dataclass
from typing import NamedTuple

from refocus_video.data.datasets.rows import Row
from refocus_video.errors import DataError

ID_FIELDS = ("id", "question_id", "uid", "qid")
"""Under which benchmarks keep a question's id, the first that is there."""
VIDEO_FIELDS = ("video_path", "video_name", "video", "videoID", "video_id")


class About(NamedTuple):
    """Whose frames they are, as far as the file says."""

    id: str = ""
    """The question's id; empty in a file whose entries are told by their order alone."""
    video: str = ""
    question: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """The frames chosen for one question, as a file lists them: in its order, repeated where it repeats them."""

    where: str
    """File and entry, as an error names them."""
    about: About
    frames: tuple[int, ...] = ()
    """Positions in the source video."""
    times: tuple[float, ...] = ()
    """Seconds, in a file that gives no frames."""
    ranked: bool = False
    """Whether the order says which was picked first, so that the first few may be taken alone."""
    error: str = ""
    """Why there are no frames."""


def about(row: Row) -> About:
    """Id, video and question of a benchmark's own row.

    Raises:
        DataError: it has no id.
    """
    id, video, question = (
        next((row.name(name) for name in names if row.given(name)), "")
        for names in (ID_FIELDS, VIDEO_FIELDS, ("question",))
    )
    if not id:
        raise DataError(f"{row.where}: no id; expected one of the fields {', '.join(ID_FIELDS)}")
    return About(id, video, question)


def indices(values: object, row: Row, field: str) -> tuple[int, ...]:
    """Whole numbers of at least 0, which some files write as 30.0."""
    if not isinstance(values, list | tuple) or not all(map(_is_index, values)):
        raise DataError(f"{row.where}, field {field!r}: expected a list of frame indices, whole numbers of at least 0")
    return tuple(int(x) for x in values)


def _is_index(value: object) -> bool:
    # A bool is an int to isinstance and no index.
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and float(value).is_integer()
